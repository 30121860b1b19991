"""Attacks that last: floods of messages and connections, and one connection after the other.

The honest flood's rate is measured in turns: half of the time as much harmless work is done (I2).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import statistics
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tests.driver import Piece
from tests.frontend import (
    U64,
    VERSION,
    VRING_STATE,
    Closed,
    Request,
    wait_eventfd,
)
from tests.hostile.attack import lasting_attack
from tests.hostile.attacks_message import negotiated
from tests.hostile.invariant import Broken
from tests.hostile.scene import Attacker, Scene, region

SECONDS = 2.0
ROUNDS = 100
"""How often a port may set up its rings without a pause. A thousand connections: integration/test_connection_rounds."""
NOWHERE = Piece(0, 72)


class Pace:
    """Two acts that take turns, the quiet one not more often in a second than the bad one.

    A port's messages and connections wait beyond its share, so a quiet turn at full speed would do much more than a bad
    one. And the less often the flood's thread loses its CPU, the faster it counts, since the worker moves frames
    meanwhile.
    """

    LAST = 20

    def __init__(self, bad: Callable[[], object], quiet: Callable[[], object]) -> None:
        self._bad, self._quiet = bad, quiet
        self._took: deque[float] = deque(maxlen=self.LAST)
        self._due = 0.0

    def bad(self) -> None:
        start = time.monotonic()
        self._bad()
        self._took.append(time.monotonic() - start)

    def quiet(self) -> None:
        """The quiet act, once it is time for it."""
        each = statistics.mean(self._took) if self._took else 0.0
        self._quiet()
        self._due = max(self._due, time.monotonic() - 2 * each) + each
        time.sleep(max(0.0, self._due - time.monotonic()))


# Floods of messages, against as many harmless ones


def flood(scene: Scene, message: Callable[[Attacker, int], object]) -> None:
    guest = scene.boot()
    numbers = itertools.count()
    scene.worker_keeps_its_pace(lambda: message(guest, next(numbers)))
    pace = Pace(lambda: message(guest, next(numbers)), lambda: guest.frontend.ask(Request.GET_FEATURES))
    scene.in_turns(pace.bad, pace.quiet, SECONDS)
    guest.restart_queue(1)
    scene.forget_drops()
    scene.works(guest)


@lasting_attack("slow-door", ends=True)
def memory_tables_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.frontend.set_mem_table(guest.memory.regions))


@lasting_attack("slow-door")
def rings_enabled_and_disabled_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, i: guest.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(1, i % 2)))


@lasting_attack("slow-door", ends=True)
def call_file_descriptors_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [guest.calls[1]]))


@lasting_attack("slow-door")
def rings_stopped_and_started_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.restart_queue(1))


@lasting_attack("slow-door")
def rings_broken_and_started_without_end(scene: Scene) -> None:
    def break_it(guest: Attacker, _: int) -> None:
        guest.send(NOWHERE)
        wait_eventfd(guest.errs[1], scene.max_wait)
        guest.restart_queue(1)

    flood(scene, break_it)


# Messages in pieces


@lasting_attack("half-message-blocks", ringless=True)
def messages_a_byte_at_a_time(scene: Scene) -> None:
    message = struct.pack("<III", Request.SET_VRING_NUM, VERSION, 8) + VRING_STATE.pack(0, 256)
    frontend = negotiated(scene, acks=False)
    rest = message

    def dribble(n_bytes: int) -> None:
        nonlocal frontend, rest
        try:
            frontend.send_raw(rest[:n_bytes])
            rest = rest[n_bytes:] or message
        except Closed:
            frontend, rest = negotiated(scene, acks=False), message
        scene.pause(0.01)

    def whole() -> None:
        """Complete the message that was begun."""
        dribble(len(message) if rest is not message else 0)

    scene.in_turns(lambda: dribble(1), whole, SECONDS)


@lasting_attack("answers-block")
def questions_whose_answers_are_not_read(scene: Scene) -> None:
    """Until the socket is full; then again with a new connection."""
    message = struct.pack("<III", Request.GET_FEATURES, VERSION, 0) * 100

    def pour(client: socket.socket) -> None:
        client.settimeout(0.1)
        with client, contextlib.suppress(OSError):
            for _ in range(50):
                client.sendall(message)

    def elsewhere() -> None:
        client, other = socket.socketpair()
        with other:
            pour(client)

    scene.in_turns(lambda: pour(scene.connect().sock), elsewhere, SECONDS)


# Connections


class Elsewhere:
    """A listening socket of the test, for as many harmless connections."""

    def __init__(self, scene: Scene) -> None:
        self._path = Path(scene.arena.backend.directory, "elsewhere.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        scene.adopt(os.dup(self._listener.fileno()))

    def visit(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(self._path))
            self._listener.accept()[0].close()

    def close(self) -> None:
        self._listener.close()
        self._path.unlink()


def connections(scene: Scene, bad: Callable[[], object]) -> None:
    elsewhere = Elsewhere(scene)
    pace = Pace(bad, elsewhere.visit)
    try:
        scene.in_turns(pace.bad, pace.quiet, SECONDS)
    finally:
        elsewhere.close()


@lasting_attack("one-for-all", "port-dies", ringless=True)
def connections_without_end(scene: Scene) -> None:
    """Each is opened, sends something wrong, and is closed."""

    def bad() -> None:
        frontend = scene.connect()
        frontend.send(Request.SET_VRING_NUM, VRING_STATE.pack(77, 1))
        frontend.close()

    connections(scene, bad)


@lasting_attack(beyond_mini="how soon it sees that nobody is there any more", rings=("packed",), ringless=True)
def connections_that_say_nothing(scene: Scene) -> None:
    """As fast as the kernel takes them, answered or not."""

    def bad() -> None:
        if frontend := scene.try_to_connect():
            frontend.close()
        scene.pause(0.0002)

    connections(scene, bad)


@lasting_attack(beyond_mini="its control socket serves one client after the other, and knows one request")
def local_users_who_ask_for_statistics_without_end(scene: Scene) -> None:
    """Requests of every kind, also malformed ones. Workers are not involved."""
    requests = ('{"command": "stats"}', '{"command": "show"}', '{"command": 7}', "[]")
    lines = [request.encode() + b"\n" for request in requests]
    numbers = itertools.count()

    def ask() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
            client.settimeout(scene.max_wait)
            client.connect(str(scene.arena.backend.control))
            client.sendall(lines[next(numbers) % len(lines)])
            client.recv(1 << 16)

    connections(scene, ask)


# Round after round


def one_round(scene: Scene, number: int) -> None:
    """Connect, pass a frame, break a queue or send half a message, and disconnect."""
    guest = scene.boot(regions=[region(1 << 18)], queue_size=64)
    scene.works(guest)
    if number % 3 == 0:
        guest.send(NOWHERE)
    elif number % 3 == 1:
        guest.frontend.send_raw(struct.pack("<III", Request.SET_MEM_TABLE, VERSION, 40) + bytes(7), guest.calls)
    else:
        guest.memory.regions[0].truncate(0)
    scene.disconnect()
    scene.let_go()


@lasting_attack("mapping-leak", "memory-leak", "fd-leak", rings=("packed",))
def connections_round_after_round(scene: Scene) -> None:
    """I5: mappings and resident memory are as before, but for memory that an allocator keeps."""
    backend = scene.arena.backend
    rounds = max(ROUNDS, round(ROUNDS * scene.arena.endurance))
    for number in range(30):
        one_round(scene, number)
    scene.arena.wait_released()
    mappings, resident = backend.mappings(), backend.resident_bytes()
    for number in range(rounds):
        one_round(scene, number)
    scene.arena.wait_released()
    scene.forget_drops()
    more = backend.mappings() - mappings, backend.resident_bytes() - resident
    if more[0] > 2 or more[1] > 1 << 20:
        raise Broken("I5", f"after {rounds} rounds there are {more[0]} mappings and {more[1]} resident bytes more")
