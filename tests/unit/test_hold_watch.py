"""Holes punched into the memory of one guest keep a worker waiting: the watch finds out whose memory it is."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend.features import OFFLOADS
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.hold_watch import HoldWatch
from fastvhost.dataplane.worker import Worker
from tests.driver import NET_HEADER, Memory, Piece, Region
from tests.segmenter import SuperFrame
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, GuestPort, rig
from tests.unit.test_learn import ethernet, mac

HOLES = 128 * MIB
"""Bytes that are filled and punched again and again: the more, the longer a page fault waits."""
PUNCH_HOLE, KEEP_SIZE = 2, 1
FAR = 1 << 30
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=[F_VERSION_1, F_VERSION_1 | F_RING_PACKED], ids=["split", "packed"])
def features(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Puncher:
    """Punches all of a file away, whatever it is told by."""

    def __init__(self, region: Region) -> None:
        self._stopping = False
        self._thread = threading.Thread(target=self._run, args=(region.fd,))
        self._thread.start()

    def _run(self, fd: int) -> None:
        n = ctypes.c_long(HOLES)
        while not self._stopping:
            LIBC.fallocate(fd, 0, ctypes.c_long(0), n)
            LIBC.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, ctypes.c_long(0), n)

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()


def memory_with_holes(*, rings: bool = False) -> Memory:
    """The first region for what is meant to be there, the second one to be punched; or the other way round."""
    holes, sound = Region(FAR, HOLES), Region(0x10000, 16 * MIB)
    return Memory([holes, sound] if rings else [sound, holes])


@contextmanager
def two_guests(
    features: int, left: Memory, right: Memory, *, sends: int = 0, learn: bool = False
) -> Iterator[tuple[GuestPort, GuestPort, Worker]]:
    """Wired to each other, at a worker that runs. sends: features of the left one alone.

    learn: a switch instead, which knows the right one, and does not look at what that one sends.
    """
    door = Door()
    sides = [GuestPort(door, "left", left, 64, features | sends), GuestPort(door, "right", right, 64, features)]
    worker = Worker(door, "worker0", idle="adaptive")
    if learn:
        bridge = Bridge([side.port for side in sides], ForwardingTable(ports=2))
        bridge.guard(sides[1].port, [mac(1).hex(":")])
        worker.add_wire(sides[0].port, None, hold=True, hold_timeout_ms=60_000, bridge=bridge)
    for ingress, egress in () if learn else (sides, sides[::-1]):
        worker.add_wire(ingress.port, egress.port, hold=True, hold_timeout_ms=60_000)
    thread = threading.Thread(target=worker.run)
    try:
        for side in sides:
            for queue in side.queues:
                queue.reset(0)  # as a hole reads
            side.connect()
        thread.start()
        yield sides[0], sides[1], worker
    finally:
        worker.stop()
        if thread.ident:
            thread.join(MAX_WAIT)
        worker.close()
        for side in sides:
            side.close()


ENOUGH = 0.1
"""Seconds."""


def seconds_held(
    worker: Worker, region: Region, work: Callable[[], object], most: float = MAX_WAIT
) -> dict[str, float]:
    """By port, while the region is punched: until there are ENOUGH in all, or `most` seconds have passed."""
    watch, seconds = HoldWatch([worker]), Counter[str]()

    def look_on() -> None:
        while holds := watch.wait():
            for hold in holds:
                assert hold.worker == "worker0"
                seconds[hold.port] += hold.seconds  # type: ignore[assignment]

    thread = threading.Thread(target=look_on)
    thread.start()
    puncher = Puncher(region)
    try:
        deadline = time.monotonic() + most
        while sum(seconds.values()) < ENOUGH and time.monotonic() < deadline:
            work()
            time.sleep(0.001)
    finally:
        puncher.stop()
        watch.stop()
        thread.join(MAX_WAIT)
    return dict(seconds)


def charged(held: dict[str, float]) -> str:
    """Which port is charged, except for short waits for the kernel's own locks."""
    port = max(held, key=held.__getitem__)
    assert held[port] >= 0.9 * sum(held.values()), held
    return port


class Stream:
    """Frames without end, as far as buffers come back: each piece of one is on a page of its own.

    Of the pages of `fresh` no two are the same, so that they are missing in memory that nobody has touched.
    """

    N = 8

    def __init__(self, sender: GuestPort, receiver: GuestPort, pieces: int, *, fresh: GuestPort | None = None) -> None:
        self._ends = [(sender.queues[1], sender is fresh, False), (receiver.queues[0], receiver is fresh, True)]
        self._pieces = pieces
        self._next = FAR
        for queue, fresh_pages, writable in self._ends:
            self._offer(queue, self.N, fresh_pages, writable)

    def _offer(self, queue: Any, n: int, fresh_pages: bool, writable: bool) -> None:
        heads = []
        for _ in range(n):
            at = self._next if fresh_pages else FAR
            chain = [Piece(at + 4096 * i, 1536 // self._pieces, writable=writable) for i in range(self._pieces)]
            heads.append(queue.chain(chain))
            if fresh_pages:
                self._next = FAR + (self._next - FAR + 4096 * self._pieces) % (HOLES - MIB)
        queue.make_available(*heads)

    def go_on(self) -> None:
        for queue, fresh_pages, writable in self._ends:
            if back := queue.take_used():
                self._offer(queue, len(back), fresh_pages, writable)


def test_an_empty_ring_in_a_hole_is_its_ports(features: int) -> None:
    left, right = memory_with_holes(rings=True), Memory.of(16 * MIB)
    with two_guests(features, left, right) as (_, _, worker):
        held = seconds_held(worker, left.regions[0], lambda: None)
    assert charged(held) == "left"


def test_a_receive_queue_in_a_hole_is_charged_to_its_port_and_not_to_the_sender(features: int) -> None:
    left, right = Memory.of(16 * MIB), memory_with_holes(rings=True)
    with two_guests(features, left, right) as (sender, _, worker):
        sender.driver.send_at_once(*(bytes(60) for _ in range(8)))
        held = seconds_held(worker, right.regions[0], lambda: None)
    assert charged(held) == "right"


def test_frames_that_wait_for_a_receive_queue_in_a_hole_are_charged_to_its_port(features: int) -> None:
    """Nobody sends meanwhile: they are in a backlog."""
    left, right = Memory.of(16 * MIB), memory_with_holes(rings=True)
    with two_guests(features, left, right, learn=True) as (sender, _, worker):
        sender.driver.send_at_once(*(ethernet(mac(1), mac(0)) for _ in range(8)))
        sender.driver.wait_sent()
        held = seconds_held(worker, right.regions[0], lambda: None)
        assert worker.waiting == 8
    assert charged(held) == "right"


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("whose", ["left", "right"], ids=["frames of the sender", "buffers of the receiver"])
def test_pages_in_holes_are_charged_to_whose_they_are_though_others_pages_are_missing(whose: str, pieces: int) -> None:
    memories = {"left": memory_with_holes(), "right": memory_with_holes()}
    with two_guests(F_VERSION_1, *memories.values()) as (sender, receiver, worker):
        stream = Stream(sender, receiver, pieces, fresh=receiver if whose == "left" else sender)
        held = seconds_held(worker, memories[whose].regions[1], stream.go_on)
    assert charged(held) == whose


class SuperFrames:
    """Super-frames without end, to a receiver that takes none. Headers or payload on pages that nobody has touched."""

    def __init__(self, sender: GuestPort, receiver: GuestPort, *, headers_fresh: bool) -> None:
        self._sender, self._receiver, self._headers_fresh = sender, receiver, headers_fresh
        one = SuperFrame(bytes(8192), 1448)
        self._start, self._sound = one.header_bytes, sender.memory.take(16384)
        sender.memory.write(self._sound, NET_HEADER.pack(*one.asks, 0) + one.frame)
        self._next = FAR
        receiver.driver.post(60, bytes=1024)  # each piece takes two, and is copied by itself
        self._offer(8)

    def go_on(self) -> None:
        queue = self._sender.queues[1]
        for used in self._receiver.queues[0].take_used():
            self._receiver.driver.post_chain(self._receiver.driver.receive_buffers.pop(used.head))
        self._offer(len(queue.take_used()))

    def _offer(self, n: int) -> None:
        queue = self._sender.queues[1]
        for _ in range(n):
            fresh = [Piece(self._next + 4096 * i, 4096) for i in range(2)]
            self._next = FAR + (self._next - FAR + 8192) % (HOLES - MIB)
            at, n = self._sound, self._start
            if self._headers_fresh:
                pieces = [Piece(at, 12), Piece(fresh[0].addr, n), Piece(at + 12 + n, 8192)]
            else:
                # As much of it as is read with the headers is there.
                pieces = [Piece(at, 12 + n + 512), fresh[0], fresh[1]._replace(bytes=4096 - 512)]
            queue.make_available(queue.chain(pieces))


@pytest.mark.parametrize("headers_fresh", [True, False], ids=["headers", "payload"])
def test_a_super_frame_in_holes_is_charged_to_its_sender(features: int, headers_fresh: bool) -> None:
    """Its headers are read on the way to the receiver, and its pieces copied from a burst of their own."""
    left, right = memory_with_holes(), memory_with_holes()
    with two_guests(features | NET_F_MRG_RXBUF, left, right, sends=OFFLOADS) as (sender, receiver, worker):
        stream = SuperFrames(sender, receiver, headers_fresh=headers_fresh)
        held = seconds_held(worker, left.regions[1], stream.go_on)
        cut = receiver.port.counters().cut, receiver.port.counters().tx_dropped["gso_unsupported"]
    assert charged(held) == "left"
    assert cut[headers_fresh] > 0


def test_a_worker_that_only_has_much_to_do_is_not_held() -> None:
    left, right = memory_with_holes(), memory_with_holes()
    with two_guests(F_VERSION_1, left, right) as (sender, receiver, worker):
        stream = Stream(sender, receiver, 3, fresh=receiver)
        held = seconds_held(worker, Region(1 << 40, HOLES), stream.go_on, most=0.5)
    assert sum(held.values()) < ENOUGH / 2


def test_it_stops_at_once_with_no_worker_running() -> None:
    watch = HoldWatch([Worker(Door())])
    threading.Timer(0.02, watch.stop).start()
    assert watch.wait() == []
    assert watch.wait() == []


def test_who_meets_the_workers_has_open_what_it_looks_at() -> None:
    """So that a fwd need not open them once it serves guests, when it may have run out of descriptors."""
    with rig(idle="interrupt") as r:
        watch = HoldWatch([r.worker])
        before = stat_files()
        assert not watch.meet(0.0)
        thread = threading.Thread(target=r.worker.run)
        thread.start()
        try:
            assert watch.meet(30.0)
            assert stat_files() == before + 1
        finally:
            r.worker.stop()
            thread.join(5)


def stat_files() -> int:
    """How many descriptors of this process tell the state of one of its threads."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the directory itself
            found += bool(re.fullmatch(r"/proc/\d+/task/\d+/stat", str(entry.readlink())))
    return found
