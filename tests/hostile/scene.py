"""What an attack uses: attackers on port a, the victim at port b, and checks of the expected reactions."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tests.driver import Piece, Region, Timeout, Used
from tests.frontend import (
    FEATURES,
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_FEATURES,
    Closed,
    Frontend,
    Guest,
    Refused,
    Request,
    wait_eventfd,
)
from tests.hostile.flood import FAIR_SHARE
from tests.hostile.invariant import Broken
from tests.hostile.rings import FORMATS, HostileSplit, Range
from tests.hostile.watch import WatchedMemory
from tests.own_time import stolen_seconds

if TYPE_CHECKING:
    from tests.hostile.arena import Arena

ANSWERED = {1, 11, 15, 17, 24, 36, 40}
"""Requests with a reply of their own instead of an acknowledgement."""
GUEST_ADDR = 0x10000
LONGEST_SLEEP = 0.1
"""Seconds for which one message may keep a worker from its rounds."""
BEFORE, BEHIND = 0x8000, 0x8000
"""Bytes of the attacker's file before and after its region: they hold its own secrets."""


def region(bytes: int = 2 << 20, guest_addr: int = GUEST_ADDR, **options: Any) -> Region:
    """A region in the middle of a larger file."""
    options = {"mmap_offset": BEFORE, "file_bytes": BEFORE + bytes + BEHIND, "name": "attacker", **options}
    return Region(guest_addr, bytes, **options)


class Attacker(Guest):
    """A guest whose memory is full of secrets, and which detects all writes to it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # Polled, so that the first buffer is handled at once and not when a kick is noticed.
        super().__init__(*args, polled=True, **options)
        self.writable: list[Range] = []

    # Of either format: attacks on one format use members that only its class has.
    @property
    def receiveq(self) -> Any:
        return self.queues[0]

    @property
    def transmitq(self) -> Any:
        return self.queues[1]

    def put(self, data: bytes) -> int:
        """Data at a new address, with secrets before and behind it."""
        addr = self.memory.take(len(data) + 32) + 16
        self.memory.write(addr, data)
        return addr

    def piece(self, data: bytes, **flags: bool) -> Piece:
        return Piece(self.put(data), len(data), **flags)

    def pieces(self, data: bytes, sizes: Sequence[int]) -> list[Piece]:
        """Cut data into pieces of these sizes and a last one with the rest, each at an address of its own."""
        cuts = [0, *itertools.accumulate(sizes), len(data)]
        return [self.piece(data[start:stop]) for start, stop in itertools.pairwise(cuts)]

    def packet(self, frame: bytes) -> bytes:
        return self.net.header() + frame

    def room(self, *sizes: int) -> list[Piece]:
        """Writable pieces of these sizes for the receiveq, which the device may write from now on."""
        found = []
        for size in sizes:
            addr = self.memory.take(size + 32) + 16
            self.writable.append((addr, size))
            found.append(Piece(addr, size, writable=True))
        return found

    def decoy(self, queue: HostileSplit, index: int, frame: bytes) -> None:
        """Write a good descriptor of a good frame outside of the table, after it or before it."""
        data = self.packet(frame)
        queue.write_descriptor(index, self.put(data), len(data))

    def fire(self, *heads: int, queue: int = 1, index: int | None = None) -> None:
        """Offer heads, or just set the avail index."""
        target: Any = self.queues[queue]
        if index is None:
            target.offer(*heads)
        else:
            target.set_avail_index(index)

    def send(self, *pieces: Piece, queue: int = 1) -> int:
        """A chain of these pieces, offered. Returns its head."""
        head = self.queues[queue].chain(pieces)
        if queue == 0:
            self.net.receive_buffers[head] = list(pieces)
        self.fire(head, queue=queue)
        return head

    def verify(self) -> None:
        """I6: nothing was written but used rings and the buffers handed over."""
        assert isinstance(self.memory, WatchedMemory)
        rings: list[Any] = [*self.queues]
        if changed := self.memory.changed([*self.writable, *(place for ring in rings for place in ring.writable())]):
            raise Broken("I6", "; ".join(changed))

    def close(self) -> None:
        """Disconnect; the memory stays until verify()."""
        self.frontend.close()

    def forget(self) -> None:
        super().close()


class Scene:
    """One run of one attack."""

    def __init__(self, arena: Arena, ring: str = "split") -> None:
        self.arena = arena
        self.ring = ring
        self.format = FORMATS[ring]
        self.victim = arena.victim
        self.max_wait = arena.max_wait
        self.random = random.Random(2)
        self.connections = 0
        self.started = time.monotonic()
        self._attackers: list[Attacker] = []
        self._frontends: list[Frontend] = []
        self._fds: list[int] = []
        self._regions: list[Region] = []
        self._drops = arena.drops()

    def frame(self, bytes: int = 60) -> bytes:
        """A new, unique Ethernet frame."""
        return b"\2\0\0\0\0\1\2\0\0\0\0\2\x88\xb5"[:bytes] + self.random.randbytes(max(0, bytes - 14))

    # Connections to port a

    def connect(self, port: str = "a") -> Frontend:
        """Connect: to port a once the connection before is gone; to another port at once."""
        if port == "a":
            self.disconnect()
        self.connections += 1
        deadline = time.monotonic() + self.max_wait
        while True:
            frontend = Frontend.connect(self.arena.backend.path(port), self.max_wait)
            try:
                frontend.ask(Request.GET_FEATURES)
            except Closed:
                frontend.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)
                continue
            self._frontends.append(frontend)
            return frontend

    def try_to_connect(self) -> Frontend | None:
        """A connection, unless the back-end has a long queue of them already."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(self.arena.backend.path("a")))
        except BlockingIOError:
            sock.close()
            return None
        self._frontends.append(Frontend(sock, self.max_wait))
        return self._frontends[-1]

    def eventfd(self) -> int:
        self._fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return self._fds[-1]

    def adopt(self, fd: int) -> int:
        """Have this descriptor closed at the end of the scene."""
        self._fds.append(fd)
        return fd

    def ends_and_starts_again(self, number: int = signal.SIGTERM) -> None:
        """End the back-end by this signal while it has everything; a new one must serve on the same paths."""
        self.arena.start_again(number)
        self.victim = self.arena.victim
        self._drops = self.arena.drops()

    def give_up(self, fd: int) -> None:
        """Close an adopted descriptor, so that another process has the last one of that file."""
        self._fds.remove(fd)
        os.close(fd)

    def own_region(self, guest_addr: int = GUEST_ADDR) -> Region:
        """A good region without a guest."""
        own = region(guest_addr=guest_addr)
        self._regions.append(own)
        return own

    def control_idles(self) -> None:
        """Check that every thread but the worker is almost idle."""
        before, end = self.arena.backend.thread_seconds(), time.monotonic() + 2.0
        others, worker = [0.0], 0.0
        while worker + sum(others) < 0.1 and time.monotonic() < end:
            time.sleep(0.05)
            after = self.arena.backend.thread_seconds()
            *others, worker = sorted(after[task] - before.get(task, 0.0) for task in after)
        if sum(others) > 0.02 and sum(others) > worker / 4:
            raise Broken("I9", f"threads were busy for {sum(others):.2f} s, the worker for {worker:.2f}")

    def in_turns(self, act: Callable[[], object], quiet: Callable[[], object], seconds: float, **more: Any) -> None:
        """Arena.in_turns, for as much of the time as this arena gives to what lasts."""
        self.arena.in_turns(act, quiet, seconds * self.arena.endurance, **more)

    def costs_its_share(self, act: Callable[[], object], quiet: Callable[[], object], seconds: float) -> None:
        """Check that a port which asks for all of the worker gets only its share.

        Without the flood: that a round of the worker stays short, in CPU time, and the honest stream keeps its rate.
        """
        if self.arena.beside_flood:
            self.in_turns(act, quiet, seconds, least=FAIR_SHARE)
        else:
            self.rounds_stay_short(act, seconds)
            self.arena.in_turns(act, quiet, seconds)

    def rounds_stay_short(self, act: Callable[[], object], seconds: float) -> None:
        """Check that a round of the worker stays short while `act` is done again and again."""
        backend = self.arena.backend
        rounds, before = self.arena.rounds(), backend.thread_seconds()
        start, busiest = time.monotonic(), 0.0
        # Long enough that a round that is too long would show, also on a busy machine.
        while time.monotonic() < start + seconds or busiest < 2 * self.arena.longest_round:
            act()
            after = backend.thread_seconds()
            busiest = max(after[task] - before.get(task, 0.0) for task in after)
            if time.monotonic() > start + seconds + self.max_wait:
                raise Broken("I9", f"the worker had a CPU for {busiest:.3f} s")
        spent = busiest / max(self.arena.rounds() - rounds, 1)
        if spent > self.arena.longest_round:
            raise Broken("I2", f"a round of the poll loop takes {spent * 1e6:.0f} us")

    def worker_keeps_its_pace(self, act: Callable[[], object]) -> None:
        """Check that the act never blocks the worker: it runs, waits for a CPU, or sleeps no longer than it wants to.

        Two good acts before four bad ones, on a machine that may make threads wait, which is counted apart, and now and
        then for one that waits, which is not.
        """
        backend = self.arena.backend
        before = backend.thread_seconds()
        time.sleep(0.05)
        worker = max((seconds - before.get(task, 0.0), task) for task, seconds in backend.thread_seconds().items())[1]
        slept: list[float] = []
        while sum(seconds < LONGEST_SLEEP for seconds in slept) < 2:
            start, busy = time.monotonic(), backend.busy_seconds(worker) + stolen_seconds()
            act()
            slept.append(time.monotonic() - start - (backend.busy_seconds(worker) + stolen_seconds() - busy))
            if sum(seconds >= LONGEST_SLEEP for seconds in slept) == 4:
                raise Broken("I2", f"the worker stood still for {', '.join(f'{seconds:.2f}' for seconds in slept)} s")

    def forget_drops(self) -> None:
        """Drops so far do not count for this attack."""
        self._drops = self.arena.drops()

    def new_drops(self) -> Counter[str]:
        """Drops of the pair since the last look, by reason."""
        return self.arena.drops() - self._drops

    def frames_may_have_arrived(self) -> None:
        """Accept frames with any content: where memory was removed they may be zeros."""
        self.let_rounds_pass()
        self.victim.net.receive_all()

    def zeros_are_mine(self, attacker: Attacker) -> None:
        """Accept changes of the attacker's memory that it made through its files."""
        assert isinstance(attacker.memory, WatchedMemory)
        for own in attacker.memory.regions:
            attacker.memory.accept(own)

    def let_rounds_pass(self, n: int = 3) -> None:
        """Wait until the worker has made n rounds, so that it has seen everything."""
        start, deadline = self.arena.rounds(), time.monotonic() + self.max_wait
        while self.arena.rounds() < start + n:
            if time.monotonic() > deadline:
                raise Broken("I9", "the poll loop stands still")
            time.sleep(0.001)

    def nothing_arrives(self, why: str) -> None:
        """Check that no frame arrives at the victim after rounds of the worker."""
        self.let_rounds_pass()
        if frames := self.victim.net.receive_all():
            raise Broken("I7", f"{why}: {len(frames)} frames arrived, the first: {frames[0][:64].hex()}")

    def tries(self, pause: float) -> Iterator[None]:
        """Yields with this pause in between until max_wait is over."""
        deadline = time.monotonic() + self.max_wait
        while True:
            yield
            if time.monotonic() > deadline:
                return
            time.sleep(pause)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def boot(
        self,
        *,
        regions: Sequence[Region] = (),
        features: int = FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        queue_size: int = 256,
        start: int | None = None,
        blank: bool = False,
        port: str = "a",
    ) -> Attacker:
        """An attacker, set up like a good guest. `blank`: it has secrets outside its regions only."""
        memory = self.memory(regions or [region()], blank=blank)
        try:
            frontend = self.connect(port)
            queues: list[Any] = [self.format.queue(memory, queue_size, start) for _ in range(2)]
            features |= self.format.features
            attacker = Attacker(frontend, memory, *queues, features=features, protocol_features=protocol_features)
            if lacking := self.format.features & ~frontend.features:
                raise Broken("reaction", f"features {lacking:#x} are not offered")
        except BaseException:
            memory.close()
            raise
        self._attackers.append(attacker)
        return attacker

    def memory(self, regions: Sequence[Region], *, blank: bool) -> WatchedMemory:
        """An attacker's."""
        return WatchedMemory(regions, "attacker", blank=blank)

    def each_way(self) -> Iterator[Attacker]:
        """An attacker with REPLY_ACK, and one without."""
        for features in (PROTOCOL_FEATURES, PROTOCOL_FEATURES & ~PROTOCOL_F_REPLY_ACK):
            yield self.boot(protocol_features=features)

    def disconnect(self) -> None:
        for frontend in self._frontends:
            frontend.close()

    def let_go(self) -> None:
        """Disconnect the attackers so far, and check their memory."""
        self.verify_memory()
        for attacker in self._attackers:
            attacker.forget()
        self._attackers.clear()

    def verify_memory(self) -> None:
        for attacker in self._attackers:
            attacker.verify()

    def close(self) -> None:
        self.disconnect()
        for attacker in self._attackers:
            attacker.forget()
        for own in self._regions:
            own.close()
        while self._fds:
            os.close(self._fds.pop())

    # Reactions

    def refused(self, frontend: Frontend, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A: a non-zero answer where one was asked for, or the connection closed."""
        if request in ANSWERED:
            self.refused_by(frontend, lambda: frontend.ask(request, payload, fds))
        else:
            self.refused_by(frontend, lambda: frontend.tell(request, payload, fds))

    def refused_by(self, frontend: Frontend, messages: Callable[[], object]) -> None:
        """A, somewhere among these messages."""
        try:
            messages()
            if frontend.reply_ack or not frontend.wait_closed(self.max_wait):
                raise Broken("A", "what should be refused was accepted")
        except (Refused, Closed):
            pass

    def tolerated(self, frontend: Frontend, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """It may be refused or not. Returns whether the connection is still open."""
        try:
            with contextlib.suppress(Refused):
                frontend.tell(request, payload, fds)
            frontend.send(Request.GET_FEATURES)
            while frontend.receive().request != Request.GET_FEATURES:
                pass
        except Closed:
            return False
        return True

    def closed(self, frontend: Frontend) -> None:
        """A, where no ack can be given."""
        if not frontend.wait_closed(self.max_wait):
            raise Broken("A", "the connection was not closed")

    def broken(self, attacker: Attacker, queue: int = 1, status: str = "") -> None:
        """B: the err eventfd written, the reason told, counted once, the queue at rest; set up anew it works."""
        self.hears(attacker.errs[queue])
        if (told := self.arena.why("a", queue)) is not None and status not in told:
            raise Broken("B", f"queue {queue} is broken since {told!r}, not {status!r}")
        self.counted({"bad_descriptor": 1}, exactly=queue == 1)
        self._at_rest(attacker, queue)
        attacker.restart_queue(queue)
        self.works(attacker, queue)

    def hears(self, err: int) -> None:
        """An err eventfd is written."""
        wait_eventfd(err, self.max_wait)

    def works(self, attacker: Attacker, queue: int = 1) -> None:
        """A frame passes through this queue."""
        if queue == 1:
            frame = self.frame()
            self.delivered(attacker, frame, attacker.send(attacker.piece(attacker.packet(frame))))
        else:
            attacker.send(*attacker.room(2048), queue=0)
            self.arrives(attacker, self.frame())

    def _at_rest(self, attacker: Attacker, queue: int) -> None:
        """A broken queue takes nothing more, and does not hold up its peer."""
        target = attacker.queues[queue]
        target.take_used()
        if not target.free:
            return
        if queue == 1:
            attacker.send(attacker.piece(attacker.packet(self.frame())))
            self.let_rounds_pass()
        else:
            attacker.send(*attacker.room(2048), queue=0)
            self.victim.net.send(self.frame())
            self.victim.net.wait_sent(self.max_wait)
            self._drops = self.arena.drops()
        if target.take_used():
            raise Broken("B", f"queue {queue} goes on after it was broken")

    def dropped(self, attacker: Attacker, reason: str, *heads: int) -> None:
        """C: the chains returned in order, each counted for this reason."""
        self.returned(attacker, heads)
        self.counted({reason: len(heads)})

    def delivered(self, attacker: Attacker, frame: bytes, head: int) -> None:
        """A legal input: the victim gets exactly this frame, and the chain comes back."""
        got = self.victim.net.receive(self.max_wait)
        header = self.victim.net.received_header
        if got != frame:
            raise Broken("I7", f"{len(frame)} bytes sent, {len(got)} arrived: {got[:80].hex()}, not {frame[:80].hex()}")
        if header != bytes(10) + b"\1\0":
            raise Broken("I7", f"the frame arrived under the header {header.hex()}")
        self.returned(attacker, [head])

    def arrives(self, attacker: Attacker, frame: bytes, *, buffers: int = 1) -> None:
        """The other way: a frame from the victim reaches the attacker, in so many receive chains."""
        self.victim.net.send(frame)
        if (got := attacker.net.receive(self.max_wait, repost=False)) != frame:
            raise Broken("I7", f"{len(frame)} bytes sent, {len(got)} arrived: {got[:80].hex()}, not {frame[:80].hex()}")
        if attacker.net.received_header != bytes(10) + buffers.to_bytes(2, "little"):
            raise Broken("I7", f"the frame arrived under the header {attacker.net.received_header.hex()}")

    def returned(self, attacker: Attacker, heads: Sequence[int]) -> None:
        try:
            used = attacker.transmitq.wait_used(len(heads), self.max_wait)
        except Timeout as error:
            raise Broken("C", f"chains were not returned: {error}") from error
        if used != [Used(head, 0) for head in heads]:
            raise Broken("C", f"chains {list(heads)} came back as {used}")

    def echoed(self, attacker: Attacker, *ids: int, slots: int = 1) -> None:
        """Chains put into a packed ring by hand came back, each under the id that it was given."""
        for ident in ids:
            attacker.transmitq.adopt(ident, slots)
        self.returned(attacker, ids)

    def counted(self, expected: dict[str, int], *, exactly: bool = True) -> None:
        """Wait until the pair's drops since the last look are these."""
        deadline = time.monotonic() + self.max_wait
        while True:
            now = self.arena.drops()
            new = now - self._drops
            if all(new[reason] >= n for reason, n in expected.items()):
                break
            if time.monotonic() > deadline:
                raise Broken("C", f"counted {dict(new)}, not {expected}")
            time.sleep(0.005)
        if exactly and new != Counter(expected):
            raise Broken("C", f"counted {dict(new)}, not {expected}")
        self._drops = now
