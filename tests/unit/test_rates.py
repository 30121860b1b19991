"""Limits of what a port may send: how much passes, that the rest waits in the sender's ring, and that it sleeps."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from bench import conservation
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory
from tests.probes import policies
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, GuestPort

SECOND = 10**9
FRAME = b"\x52\x54\0\0\0\x0b\x52\x54\0\0\0\x0a\x88\xb5" + bytes(986)
"""1000 bytes."""
SLEEP = 20_000_000


class Pair:
    """Two guests on a wire. The first one has a limit, and a clock that the test moves on."""

    def __init__(self, features: int, **limit: float) -> None:
        door = Door()
        self.guests = [GuestPort(door, name, Memory.of(32 * MIB), 1024, features) for name in "ab"]
        self.worker = Worker(door)
        a, b = (guest.port for guest in self.guests)
        self.wire = self.worker.add_wire(a, b, hold=True, hold_timeout_ms=1000)
        self.worker.add_wire(b, a, hold=True, hold_timeout_ms=1000)
        self.wire.set_limit(**limit)
        policies.use_on_wire(self.wire)
        self.now = SECOND
        policies.set_time(self.now)
        for guest in self.guests:
            guest.connect()
            guest.driver.post(256)

    def send(self, n: int, frame: bytes = FRAME) -> None:
        self.guests[0].driver.send_at_once(*[frame] * n)

    def moved(self) -> int:
        """How many frames reach the other guest now, and not later."""
        n = 0
        while self.worker.step():
            n += len(self.guests[1].driver.receive_all())
        conservation.check(self.worker, *(guest.port for guest in self.guests))
        return n

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)
        policies.set_time(self.now)

    def close(self) -> None:
        self.worker.close()
        for guest in self.guests:
            guest.close()


@contextlib.contextmanager
def pair(features: int = F_VERSION_1, **limit: float) -> Iterator[Pair]:
    made = Pair(features, **limit)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("ring", [0, F_RING_PACKED], ids=["split", "packed"])
def test_frames_a_second_pass_and_the_rest_waits_in_order_and_is_not_lost(ring: int) -> None:
    with pair(F_VERSION_1 | ring, frames=1000) as p:
        frames = [FRAME[:14] + n.to_bytes(4, "big") for n in range(300)]
        p.guests[0].driver.send_at_once(*frames)
        got: list[bytes] = []
        for expected in [64] + [10] * 23 + [6]:
            while p.worker.step():
                pass
            now = p.guests[1].driver.receive_all()
            assert len(now) == expected
            got += now
            p.wait(0.010)
        assert got == frames
        assert sum(p.guests[0].port.counters().rx_dropped.values()) == 0


def test_bits_a_second_pass_after_a_burst() -> None:
    with pair(bits=8_000_000, burst=50_000) as p:  # a frame a millisecond, and 50 of them at once
        p.send(200)
        assert p.moved() == 50
        assert p.moved() == 0
        total = 0
        for _ in range(100):
            p.wait(0.001)
            total += p.moved()
        assert 99 <= total <= 101
        p.wait(0.001 * 100)  # what it might have had, but for those 50 that are at hand
        assert p.moved() == 200 - 50 - total


def test_a_burst_cannot_be_saved_up_beyond_its_size() -> None:
    with pair(bits=8_000_000, burst=50_000) as p:
        p.wait(3600)
        p.send(200)
        assert p.moved() == 50


def test_a_frame_larger_than_the_burst_passes_and_is_paid_for() -> None:
    with pair(bits=8_000_000, burst=64) as p:
        p.send(3)
        times = []
        for _ in range(250):
            if p.moved():
                times.append(p.now)
            p.wait(10e-6)
        assert [round((b - a) / 1e6, 1) for a, b in itertools.pairwise(times)] == [1.0, 1.0]


def test_of_two_limits_the_lower_one_counts() -> None:
    with pair(bits=8_000_000, burst=64_000, frames=100) as p:
        p.send(200)
        assert p.moved() == 64
        p.wait(0.1)
        assert p.moved() == 10


def test_a_lane_at_its_limit_is_slept_on_for_as_long_as_it_must_wait_and_no_other_one() -> None:
    with pair(frames=100) as p:
        assert policies.longest_sleep(p.worker, SLEEP) == SLEEP
        p.send(80)
        assert p.moved() == 64
        assert policies.longest_sleep(p.worker, SLEEP) == 10_000_000  # until the next frame may pass
        p.wait(0.004)
        assert policies.longest_sleep(p.worker, SLEEP) == 6_000_000
        p.wait(0.156)
        assert p.moved() == 16
        assert policies.longest_sleep(p.worker, SLEEP) == SLEEP  # nothing waits


def test_a_limit_can_be_changed_and_removed_while_frames_wait() -> None:
    with pair(frames=1) as p:
        p.send(200)
        assert p.moved() == 64
        p.wire.set_limit(frames=6400)
        assert p.moved() == 64
        p.wire.set_limit()
        assert p.moved() == 72


def test_frames_that_wait_for_a_limit_come_again_when_their_ring_is_restarted() -> None:
    with pair(frames=100) as p:
        p.send(100)
        assert p.moved() == 64
        assert p.worker.waiting == 36
        guest = p.guests[0]
        base = guest.port.stop_queue(1)
        guest.start(1, base=base)
        assert p.moved() == 0  # and no more of them than before
        p.wait(1)
        assert p.moved() == 36


def test_other_directions_have_no_limit() -> None:
    with pair(frames=1) as p:
        p.guests[1].driver.send_at_once(*[FRAME] * 100)
        while p.worker.step():
            pass
        assert len(p.guests[0].driver.receive_all()) == 100
