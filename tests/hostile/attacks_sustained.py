"""Attacks that last: floods of messages and connections, a thousand rounds.

The honest pair's rate is measured in turns: half of the time as much work is done that harms nobody (I2).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

from tests.driver import Piece
from tests.frontend import U64, VERSION, VRING_STATE, Request, wait_eventfd
from tests.hostile.attack import lasting_attack
from tests.hostile.invariant import Broken
from tests.hostile.scene import Attacker, Scene, region

SECONDS = 4.0
NOWHERE = Piece(0, 72)


# Floods of messages, against as many that ask for nothing


def flood(scene: Scene, message: Callable[[Attacker, int], object]) -> None:
    guest = scene.boot()
    numbers = itertools.count()
    scene.worker_keeps_its_pace(lambda: message(guest, next(numbers)))
    scene.in_turns(lambda: message(guest, next(numbers)), lambda: guest.frontend.ask(Request.GET_FEATURES), SECONDS)
    guest.restart_queue(1)
    scene.forget_drops()
    scene.works(guest)


@lasting_attack("slow-door")
def memory_tables_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.frontend.set_mem_table(guest.memory.regions))


@lasting_attack("slow-door")
def rings_enabled_and_disabled_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, i: guest.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(1, i % 2)))


@lasting_attack("slow-door")
def call_file_descriptors_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [guest.calls[1]]))


@lasting_attack("slow-door")
def rings_stopped_and_started_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.restart_queue(1))


@lasting_attack("slow-door")
def rings_broken_and_started_without_end(scene: Scene) -> None:
    def break_it(guest: Attacker, _: int) -> None:
        guest.send(NOWHERE)
        wait_eventfd(guest.errs[1], scene.patience)
        guest.restart_queue(1)

    flood(scene, break_it)


@lasting_attack("one-for-all", "port-dies", ringless=True)
def connections_without_end(scene: Scene) -> None:
    """Opened, used to say something wrong, and closed; in turns with good ones that ask a question."""

    def bad() -> None:
        frontend = scene.connect()
        frontend.send(Request.SET_VRING_NUM, VRING_STATE.pack(77, 1))
        frontend.close()

    scene.in_turns(bad, lambda: scene.connect().close(), SECONDS)


# A thousand rounds


def one_round(scene: Scene, number: int) -> None:
    """Connect, pass a frame, break a queue or leave a message half sent, and vanish."""
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


@lasting_attack("mapping-leak", "memory-leak", "fd-leak")
def a_thousand_rounds(scene: Scene) -> None:
    """I5: mappings and resident memory are as they were, give or take what an allocator keeps."""
    backend = scene.arena.backend
    rounds = round(1000 * scene.arena.endurance)
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
