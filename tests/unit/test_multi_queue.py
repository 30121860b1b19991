"""Devices with several queue pairs: which frame goes where, which rings are looked at, and several workers at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, NetDriver, SplitQueue
from tests.standstill import settle
from tests.unit.rig import F_VERSION_1, MIB, mapped, setup_of

MOST = 128


class Device:
    """A guest with several queue pairs, and its port."""

    def __init__(self, door: Door, name: str, pairs: int, size: int) -> None:
        self.port = VirtioPort(name, door, pairs)
        self.memory = Memory.of(MIB + pairs * size * 8192, name=name)
        self.queues = [SplitQueue(self.memory, size) for _ in range(2 * pairs)]
        self.drivers = [NetDriver(*self.queues[2 * pair : 2 * pair + 2]) for pair in range(pairs)]
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.queues]
        self.port.set_link(True)
        self.port.set_features(F_VERSION_1)
        self.port.set_memory(mapped(self.memory))

    def start(self, pairs: range, *, enabled: bool = True) -> None:
        for index in range(2 * pairs.start, 2 * pairs.stop):
            fds = {"call_fd": self.call, "kick_fd": self.kicks[index]}
            self.port.start_queue(index, setup_of(self.memory, self.queues[index], enabled=enabled, **fds))

    def enable(self, pairs: range, on: bool) -> None:
        for index in range(2 * pairs.start, 2 * pairs.stop):
            self.port.set_enabled(index, on)

    def post(self, pairs: range, n: int) -> None:
        for pair in pairs:
            self.drivers[pair].post(n, bytes=256)

    def receive_all(self) -> dict[int, list[tuple[int, int]]]:
        """Pair by pair, the (flow, number) of frames that arrived."""
        arrived = {pair: driver.receive_all() for pair, driver in enumerate(self.drivers)}
        return {pair: [told(frame) for frame in frames] for pair, frames in arrived.items() if frames}

    def close(self) -> None:
        self.port.close()
        self.memory.close()
        for fd in (self.call, *self.kicks):
            os.close(fd)


class Bench:
    """Devices a and b, wired, with workers that share the wires as fwd does it."""

    def __init__(
        self,
        pairs_of_a: int,
        pairs_of_b: int,
        workers: int = 1,
        size: int = 64,
        idle: str = "adaptive",
        hold_ms: int = 60_000,
    ) -> None:
        door = Door()
        self.a = Device(door, "a", pairs_of_a, size)
        self.b = Device(door, "b", pairs_of_b, size)
        self.workers = [Worker(door, f"worker{n}", idle=idle) for n in range(workers)]
        for way, (ingress, egress) in enumerate([(self.a, self.b), (self.b, self.a)]):
            turn = self.workers[way % workers :] + self.workers[: way % workers]
            wire = turn[0].add_wire(ingress.port, egress.port, hold=True, hold_timeout_ms=hold_ms, shares=workers)
            for share, worker in enumerate(turn[1:], 1):
                worker.share_wire(wire, share)

    def settle(self) -> None:
        settle(*self.workers)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=worker.run) for worker in self.workers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for worker, thread in zip(self.workers, threads, strict=True):
                worker.stop()
                thread.join(MAX_WAIT)
                assert not thread.is_alive()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.a.close()
        self.b.close()


@contextlib.contextmanager
def bench(
    pairs_of_a: int, pairs_of_b: int, workers: int = 1, size: int = 64, idle: str = "adaptive", **more: int
) -> Iterator[Bench]:
    made = Bench(pairs_of_a, pairs_of_b, workers, size, idle, **more)
    try:
        yield made
    finally:
        made.close()


def frame(flow: int, number: int) -> bytes:
    return b"\x52\x54\0\0\0\x0b\x52\x54\0\0\0\x0a\x88\xb5" + flow.to_bytes(2, "big") + number.to_bytes(4, "big") * 10


def told(data: bytes) -> tuple[int, int]:
    flow, number = int.from_bytes(data[14:16], "big"), int.from_bytes(data[16:20], "big")
    assert data == frame(flow, number)
    return flow, number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_of_128_pairs_delivers_to_its_own_and_in_order(workers: int) -> None:
    with bench(MOST, MOST, workers) as it:
        for device in (it.a, it.b):
            device.start(range(MOST))
            device.post(range(MOST), 10)
        for number in range(10):
            for pair in range(MOST):
                it.a.drivers[pair].send(frame(pair, number))
                it.b.drivers[pair].send(frame(pair, number))
        it.settle()
        expected = {pair: [(pair, number) for number in range(10)] for pair in range(MOST)}
        assert it.b.receive_all() == expected
        assert it.a.receive_all() == expected


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("sending", "receiving"), [(8, 3), (3, 8), (5, 1)])
def test_with_unequal_counts_a_flow_keeps_its_queue_and_its_order(workers: int, sending: int, receiving: int) -> None:
    with bench(sending, receiving, workers, size=256) as it:
        it.a.start(range(sending))
        it.b.start(range(receiving))
        it.b.post(range(receiving), 128)
        for number in range(16):
            for pair in range(sending):
                it.a.drivers[pair].send(frame(pair, number))
        it.settle()
        arrived = it.b.receive_all()
        for pair in range(sending):
            home = arrived[pair % receiving]
            assert [one for one in home if one[0] == pair] == [(pair, number) for number in range(16)]
        assert sum(map(len, arrived.values())) == 16 * sending


def test_a_flow_that_others_crowd_out_is_held_as_long_as_the_queue_they_share_moves() -> None:
    with bench(2, 1, hold_ms=250) as it:
        it.a.start(range(2))
        it.b.start(range(1))
        it.b.post(range(1), 1)
        it.a.drivers[1].send(frame(1, 0))
        for number in range(40):  # for more than 400 ms the other flow takes the only buffer
            it.a.drivers[0].send(frame(0, number))
            it.settle()
            assert told(it.b.drivers[0].receive()) == (0, number)
            time.sleep(0.01)
        it.settle()
        assert it.b.port.counters().tx_dropped["no_receive_buffers"] == 0
        # The hold timeout runs only while no frame gets through.
        it.a.drivers[1].send(frame(1, 1))
        it.settle()
        time.sleep(0.26)
        it.settle()
        assert it.b.port.counters().tx_dropped["no_receive_buffers"] == 1
        assert it.b.receive_all() == {0: [(1, 0)]}


def test_pairs_that_were_not_started_are_not_looked_at() -> None:
    with bench(MOST, MOST, 2) as it:
        for device in (it.a, it.b):
            device.start(range(4))
        it.settle()
        assert [worker.lanes for worker in it.workers] == [4, 4]
        it.a.port.stop_queue(7)
        it.settle()
        assert sum(worker.lanes for worker in it.workers) == 7


def test_a_disabled_pair_is_drained_while_others_are_busy() -> None:
    with bench(4, 4, size=256) as it, it.running():
        for device in (it.a, it.b):
            device.start(range(4))
        it.b.post(range(4), 64)
        time.sleep(0.01)  # by now all are quiet, where the worker had a CPU
        it.a.enable(range(2, 4), False)
        for number in range(50):
            it.a.drivers[0].send(frame(0, number))
            it.a.drivers[3].send(frame(3, number))
        it.a.drivers[3].wait_sent()
        it.a.drivers[0].wait_sent()
        assert it.b.receive_all() == {0: [(0, number) for number in range(50)]}
        assert it.a.port.counters().rx_dropped["ring_disabled"] == 50


def test_a_pair_long_quiet_beside_a_busy_one_is_found_soon() -> None:
    with bench(MOST, MOST) as it, it.running():
        for device in (it.a, it.b):
            device.start(range(MOST))
            device.post(range(MOST), 32)
        done = threading.Event()
        flood = threading.Thread(target=keep_busy, args=(it, done))
        flood.start()
        try:
            for pair in range(1, MOST):
                it.a.drivers[pair].send(frame(pair, pair))
                if it.a.queues[2 * pair + 1].used_flags == 0:  # it asks for kicks: its lane is parked
                    os.eventfd_write(it.a.kicks[2 * pair + 1], 1)
                assert told(it.b.drivers[pair].receive()) == (pair, pair)
        finally:
            done.set()
            flood.join()


def keep_busy(it: Bench, done: threading.Event) -> None:
    for number in itertools.count():
        if done.is_set():
            return
        it.a.drivers[0].send(frame(0, number))
        it.b.drivers[0].receive()


@pytest.mark.parametrize("workers", [1, 2])
def test_pairs_that_come_and_go_under_traffic_lose_and_double_nothing(workers: int) -> None:
    """Each change moves receiveqs from worker to worker, while frames are held."""
    pairs, bursts = 6, 40
    with bench(pairs, pairs, workers, size=32) as it, it.running():
        for device in (it.a, it.b):
            device.start(range(pairs))
        it.b.post(range(pairs), 8)
        arrived: list[tuple[int, int]] = []
        for burst in range(bursts):
            for pair in range(pairs):
                for number in range(6):
                    it.a.drivers[pair].send(frame(pair, 6 * burst + number))
            active = 1 + burst % pairs
            it.b.enable(range(active, pairs), False)
            it.b.enable(range(active), True)
            deadline = time.monotonic() + MAX_WAIT
            while len(arrived) < 6 * pairs * (burst + 1) and time.monotonic() < deadline:
                arrived += itertools.chain.from_iterable(it.b.receive_all().values())
        assert sorted(arrived) == [(pair, number) for pair in range(pairs) for number in range(6 * bursts)]
        assert sum(it.b.port.counters().tx_dropped.values()) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_no_kick_of_any_of_several_pairs_is_lost(workers: int) -> None:
    rng = random.Random(4)
    with bench(5, 5, workers, idle="interrupt") as it, it.running():
        for device in (it.a, it.b):
            device.start(range(5))
            device.post(range(5), 32)
        for number in range(2000):
            pair = rng.randrange(5)
            it.a.drivers[pair].send(frame(pair, number))
            if it.a.queues[2 * pair + 1].used_flags == 0:
                os.eventfd_write(it.a.kicks[2 * pair + 1], 1)
            assert told(it.b.drivers[pair].receive()) == (pair, number)
        assert sum(worker.sleeps for worker in it.workers) > 100
