"""A worker without frames sleeps, and is woken by each kick and each change."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.idle_cost import MOST_ROUNDS
from tests.own_time import OwnTime
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, RING_F_EVENT_IDX, GuestPort, Rig, frame, mapped, rig

RINGS = pytest.mark.parametrize(
    "features",
    [F_VERSION_1, F_VERSION_1 | RING_F_EVENT_IDX, F_VERSION_1 | F_RING_PACKED],
    ids=["split", "event_idx", "packed"],
)


@contextlib.contextmanager
def running(r: Rig) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=r.worker.run)
    thread.start()
    try:
        yield thread
    finally:
        r.worker.stop()
        thread.join(MAX_WAIT)
        assert not thread.is_alive()


def kicks_wanted(side: GuestPort) -> bool:
    q = side.queues[1]
    if side.features & F_RING_PACKED:
        return bool(q.device_flags == 0)
    if side.features & RING_F_EVENT_IDX:
        return bool(q.avail_event == q._avail)
    return bool(q.used_flags == 0)


def send(side: GuestPort, number: int) -> None:
    """As a driver does it: offer, then kick if asked."""
    side.driver.send(frame(number))
    if kicks_wanted(side) or side.features & RING_F_EVENT_IDX:
        os.eventfd_write(side.kick[1], 1)


def asleep(r: Rig, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not kicks_wanted(r.a):
        assert time.monotonic() < deadline, "the worker does not go to sleep"
        time.sleep(0.001)


@RINGS
@pytest.mark.parametrize("idle", ["adaptive", "interrupt"])
def test_an_idle_worker_looks_up_every_20_ms_and_a_kick_wakes_it(features: int, idle: str) -> None:
    with rig(features=features, idle=idle) as r:
        r.b.driver.post(10)
        with running(r):
            asleep(r)
            before = r.worker.rounds
            time.sleep(1)
            assert r.worker.rounds - before < MOST_ROUNDS
            send(r.a, 7)
            assert r.b.driver.receive() == frame(7)


@RINGS
@pytest.mark.parametrize(("idle", "frames", "pause"), [("interrupt", 3000, 0.0), ("adaptive", 300, 0.0018)])
def test_no_kick_is_ever_lost(features: int, idle: str, frames: int, pause: float) -> None:
    """Frames at random moments, most of them just when the worker falls asleep: at once, or after 2 ms."""
    rng = random.Random(20261122)
    with rig(features=features, idle=idle, size=64) as r:
        r.b.driver.post(64)
        with running(r):
            for n in range(frames):
                send(r.a, n)
                assert r.b.driver.receive() == frame(n)
                if pause or rng.random() < 0.3:
                    time.sleep(pause + rng.random() * 0.0005)
        assert r.worker.sleeps > 100


def test_control_wakes_a_sleeping_worker_at_once() -> None:
    with rig(idle="interrupt") as r, running(r):
        asleep(r)
        own = OwnTime()
        for _ in range(50):
            r.a.port.set_memory(mapped(r.a.memory))
            time.sleep(0.002)
        assert own.seconds < 2


def test_stopping_does_not_wait_for_the_sleep_to_end() -> None:
    with rig(idle="interrupt") as r:
        with running(r):
            asleep(r)
            own = OwnTime()
        assert own.seconds < 0.15


def test_a_driver_that_never_kicks_is_looked_at_often() -> None:
    with rig(idle="adaptive") as r:
        r.a.port.stop_queue(1)
        r.a.queues[1].reset()
        r.a.start(1, kicked=False)
        r.b.driver.post(100)
        with running(r):
            for n in range(20):
                time.sleep(0.02)
                r.a.driver.send(frame(n))
                assert r.b.driver.receive() == frame(n)


def test_a_driver_that_stops_kicking_is_found_out_and_believed_again_when_it_kicks() -> None:
    with rig(idle="adaptive") as r:
        r.b.driver.post(100)
        with running(r):
            waits = []
            for n in range(20):
                time.sleep(0.01)
                r.a.driver.send(frame(n))
                own = OwnTime()
                assert r.b.driver.receive() == frame(n)
                waits.append(own.seconds)
            assert sorted(waits)[10] < 0.005  # a nap, not a sleep
            for n in range(20, 40):
                asleep(r)
                r.a.driver.send(frame(n))
                os.eventfd_write(r.a.kick[1], 1)
                assert r.b.driver.receive() == frame(n)
            looks_up_seldom(r)


def test_a_kick_that_comes_after_its_frame_was_found_is_a_kick() -> None:
    """As if the driver lost its core between its frame and its kick, again and again."""
    with rig(idle="adaptive") as r:
        r.b.driver.post(100)
        with running(r):
            for n in range(20):
                asleep(r)
                r.a.driver.send(frame(n))
                assert r.b.driver.receive() == frame(n)
                os.eventfd_write(r.a.kick[1], 1)
            looks_up_seldom(r)


def looks_up_seldom(r: Rig) -> None:
    """50 times a second where each sleep lasts 20 ms; thousands of times where the worker does not sleep."""

    def seldom() -> bool:
        before, start = r.worker.sleeps, time.monotonic()
        time.sleep(0.5)
        return (r.worker.sleeps - before) / (time.monotonic() - start) < 100

    wait_until("the worker believes that it will be kicked", MAX_WAIT, seldom)


def test_frames_held_back_are_delivered_soon_after_buffers_come_without_any_kick() -> None:
    with rig(idle="interrupt") as r, running(r):
        send(r.a, 1)
        time.sleep(0.05)
        r.b.driver.post(1)
        assert r.b.driver.receive() == frame(1)


def test_while_frames_flow_the_driver_need_not_kick() -> None:
    with rig(idle="adaptive") as r:
        r.b.driver.post(100)
        with running(r):
            asleep(r)
            wanted = []
            for n in range(200):
                send(r.a, n)
                r.b.driver.receive()
                wanted.append(kicks_wanted(r.a))
            assert wanted.count(True) < 100


@pytest.mark.parametrize("idle", ["adaptive", "interrupt", "poll"])
def test_a_worker_without_a_wire_sleeps_and_comes_to_the_door_and_ends_like_any_other(idle: str) -> None:
    door = Door()
    port, worker = VirtioPort("a", door), Worker(door, idle=idle)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        deadline = time.monotonic() + 5
        while not (worker.sleeps > 1 or (idle == "poll" and worker.rounds > 1)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        port.set_link(True)  # through the door
    finally:
        worker.stop()
        thread.join(5)
    assert not thread.is_alive()
    worker.close()
