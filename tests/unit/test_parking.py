"""Lanes that leave the rounds while they are quiet, and come back: by a kick, or by a look where none comes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import NullPort
from fastvhost.dataplane.rewiring import Rewiring
from fastvhost.dataplane.worker import Worker
from tests.probes.parked import KickedPort
from tests.probes.shares import BusyPort, pass_time, regather, rounds, start_rounds
from tests.unit.rig import frame
from tests.unit.test_multi_queue import Device

KEPT = 8
"""Quiet lanes that stay in the rounds."""
PAIRS = 40
PARKED = [0, *range(KEPT + 1, PAIRS)]
"""The first ones that fall quiet: of the lanes of a port, the last takes the turn of one that does."""
ONE = PARKED[3]
QUIET_ROUNDS = 100
PARK_US, RECALL_US, DOZE_US = 100_000, 50, 1000


def fall_quiet(worker: Worker) -> None:
    """Until as many lanes as may be are parked."""
    rounds(worker, QUIET_ROUNDS)
    pass_time(PARK_US)
    rounds(worker, 3)


@contextlib.contextmanager
def polled(*ports: KickedPort) -> Iterator[Worker]:
    """A worker whose ports have no frames, and that has looked at them often enough to know that."""
    worker = Worker(Door())
    for port in ports:
        worker.add_wire(port, NullPort("sink"), hold=True, hold_timeout_ms=1000)
    start_rounds(worker)
    rounds(worker, QUIET_ROUNDS)
    try:
        yield worker
    finally:
        worker.close()
        for port in ports:
            port.close()


@contextlib.contextmanager
def quiet(*ports: KickedPort) -> Iterator[Worker]:
    """The same, for long."""
    with polled(*ports) as worker:
        fall_quiet(worker)
        yield worker


def frame_comes_after(worker: Worker, port: KickedPort, pair: int, step_us: int, most: int = 200) -> int:
    """How many steps of time pass until a frame is taken that was just sent."""
    before = port.received[pair]
    for step in range(1, most + 1):
        pass_time(step_us)
        rounds(worker, 1)
        if port.received[pair] > before:
            return step
    raise AssertionError(f"the frame of pair {pair} was not taken")


def test_a_worker_with_few_quiet_lanes_parks_none() -> None:
    port = KickedPort("few", KEPT)
    with quiet(port) as worker:
        before = port.looks
        rounds(worker, 10)
        assert port.asked == port.reported == []
        assert [now - then for now, then in zip(port.looks, before, strict=True)] == [10] * KEPT


def test_of_many_quiet_lanes_8_stay_and_the_others_are_not_looked_at() -> None:
    port = KickedPort("many", PAIRS)
    with quiet(port) as worker:
        before = port.looks
        rounds(worker, 1000)
        assert port.asked == port.reported == PARKED
        assert [pair for pair in range(PAIRS) if port.looks[pair] == before[pair]] == PARKED


def test_no_lane_is_parked_that_had_a_frame_in_the_last_100_ms() -> None:
    port = KickedPort("many", PAIRS)
    with polled(port) as worker:
        pass_time(PARK_US - 1)
        rounds(worker, 3)
        assert port.asked == []
        pass_time(1)
        rounds(worker, 3)
        assert port.asked == PARKED


def test_a_kick_brings_a_lane_back_within_50_us_and_its_driver_need_not_kick_any_more() -> None:
    port = KickedPort("many", PAIRS)
    with quiet(port) as worker:
        pass_time(RECALL_US)
        rounds(worker, 1)
        port.send(ONE)
        rounds(worker, 10)
        assert port.received[ONE] == 0
        assert frame_comes_after(worker, port, ONE, RECALL_US) == 1
        assert port.asked == port.reported == [pair for pair in PARKED if pair != ONE]
        port.send(ONE)
        rounds(worker, 1)
        assert port.received[ONE] == 2


def test_after_a_kick_without_a_frame_as_many_lanes_are_parked_again() -> None:
    port = KickedPort("many", PAIRS)
    with quiet(port) as worker:
        port.kick(ONE)
        pass_time(RECALL_US)
        rounds(worker, 1)
        assert ONE not in port.asked
        fall_quiet(worker)
        assert len(port.asked) == len(port.reported) == len(PARKED)


def test_a_lane_whose_frames_wait_for_room_is_not_parked() -> None:
    worker, port, egress = Worker(Door()), KickedPort("many", PAIRS), BusyPort("full", frames=0)
    egress.set_full(True)
    worker.add_wire(port, egress, hold=True, hold_timeout_ms=60_000)
    start_rounds(worker)
    for pair in range(PAIRS):
        port.send(pair)
    fall_quiet(worker)
    assert port.received == [1] * PAIRS
    assert (port.asked, worker.waiting) == ([], PAIRS)
    egress.set_full(False)
    rounds(worker, 3)
    assert worker.waiting == 0
    worker.close()
    port.close()


def test_a_frame_that_comes_just_when_its_lane_leaves_is_found_at_once() -> None:
    port = KickedPort("many", PAIRS)
    with polled(port) as worker:
        port.set_late(True)
        pass_time(PARK_US)
        rounds(worker, 2)
        assert port.received == [int(pair in PARKED) for pair in range(PAIRS)]
        assert port.asked == port.reported == []


def test_a_lane_whose_driver_cannot_kick_is_looked_at_every_millisecond() -> None:
    port = KickedPort("deaf", PAIRS, possible=False)
    with quiet(port) as worker:
        assert port.asked == PARKED
        for pair in PARKED:
            before = port.looks[pair]
            rounds(worker, 100)
            assert port.looks[pair] == before
            port.send(pair)
            assert frame_comes_after(worker, port, pair, DOZE_US) == 1


def park_again(worker: Worker, one: KickedPort, others: KickedPort) -> None:
    """Others have frames until it is this port's only lane that has its turn when one of the quiet ones is parked."""
    for more in range(200):
        if one.asked:
            return
        rounds(worker, QUIET_ROUNDS)
        for pair in range(PAIRS):
            others.send(pair)
        pass_time(RECALL_US)
        rounds(worker, more)
        fall_quiet(worker)
    raise AssertionError("it is never parked")


def test_a_driver_that_does_not_kick_is_found_and_after_three_times_looked_at_every_millisecond() -> None:
    one, others = KickedPort("one", 1), KickedPort("others", PAIRS)
    with quiet(one, others) as worker:
        for _ in range(3):
            assert one.asked == [0]
            one.send(0, kick=False)
            assert 1 <= frame_comes_after(worker, one, 0, DOZE_US) <= 100
            park_again(worker, one, others)
        for _ in range(10):
            one.send(0, kick=False)
            assert frame_comes_after(worker, one, 0, DOZE_US) == 1
            park_again(worker, one, others)
        one.send(0)
        assert frame_comes_after(worker, one, 0, RECALL_US) == 1
        park_again(worker, one, others)
        before = one.looks[0]
        for _ in range(10):  # believed again: it is looked at in turn with the others
            pass_time(DOZE_US)
            rounds(worker, 1)
        assert one.looks[0] - before < 10


def test_a_change_of_a_port_brings_its_lanes_back_and_no_others() -> None:
    one, others = KickedPort("one", 4), KickedPort("others", PAIRS)
    with quiet(one, others) as worker:
        parked = others.asked
        assert (one.asked, len(parked)) == ([0, 1, 2, 3], PAIRS - KEPT)
        one.change()
        regather(worker)
        assert (one.asked, others.asked) == ([], parked)
        rounds(worker, 1)
        assert min(one.looks) > 0
        others.send(parked[5])
        assert frame_comes_after(worker, others, parked[5], RECALL_US) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_a_pair_that_another_worker_has_from_now_on_is_found_by_that_one_alone(first: int) -> None:
    """Where active pairs of the egress become fewer, its lanes go over to the first worker."""
    door = Door()
    workers = [Worker(door, f"worker{number}") for number in range(2)]
    ingress, egress = KickedPort("in", 2 * PAIRS), KickedPort("out", 2 * PAIRS)
    wire = workers[0].add_wire(ingress, egress, hold=True, hold_timeout_ms=1000, shares=2)
    workers[1].share_wire(wire, 1)
    for worker in workers:
        start_rounds(worker)
    for worker in workers:
        fall_quiet(worker)
    parked = ingress.asked
    assert [sum(pair % 2 == which for pair in parked) for which in (0, 1)] == [PAIRS - KEPT] * 2
    egress.set_active(1)
    for pair in parked:
        ingress.send(pair)
    for worker in (workers[first], workers[1 - first]):
        regather(worker)
        pass_time(RECALL_US)
        rounds(worker, 1)
    pass_time(RECALL_US)
    rounds(workers[0], 1)
    assert workers[1].lanes == 0
    assert ingress.received == [int(pair in parked) for pair in range(2 * PAIRS)]
    assert workers[1].busy_rounds == 0
    for worker in workers:
        worker.close()
    assert ingress.asked == ingress.reported == []
    ingress.close()
    egress.close()


def test_lanes_that_go_with_their_wire_are_reported_no_more() -> None:
    door = Door()
    worker, one, others = Worker(door), KickedPort("one", 4), KickedPort("others", PAIRS)
    wires = [worker.add_wire(port, NullPort("sink"), hold=True, hold_timeout_ms=1000) for port in (one, others)]
    rewiring = Rewiring(door, [worker])
    start_rounds(worker)
    fall_quiet(worker)
    parked = others.reported
    assert (one.reported, len(parked)) == ([0, 1, 2, 3], PAIRS - KEPT)
    rewiring.commit(leave=[wires[0]])
    assert (one.reported, others.reported) == ([], parked)
    regather(worker)
    one.kick(0)
    others.send(parked[7])
    assert frame_comes_after(worker, others, parked[7], RECALL_US) == 1
    worker.close()
    one.close()
    others.close()


def test_lanes_that_another_worker_gets_are_not_asked_for_kicks_any_more() -> None:
    door = Door()
    workers = [Worker(door, f"worker{number}") for number in range(2)]
    port = KickedPort("many", PAIRS)
    wire = workers[0].add_wire(port, NullPort("sink"), hold=True, hold_timeout_ms=1000)
    rewiring = Rewiring(door, workers)
    for worker in workers:
        start_rounds(worker)
    fall_quiet(workers[0])
    assert port.asked == port.reported == PARKED
    assert rewiring.move(wire, [workers[1]])
    for worker in workers:
        regather(worker)
    assert (workers[0].lanes, workers[1].lanes) == (0, PAIRS)
    assert port.asked == port.reported == []
    for worker in workers:
        worker.close()
    port.close()


def test_a_worker_that_is_closed_asks_nobody_for_kicks() -> None:
    port = KickedPort("many", PAIRS)
    with quiet(port):
        assert port.asked == port.reported == PARKED
    assert port.asked == port.reported == []


# With real rings


def reported() -> int:
    """Files that epolls of this process report. proc(5), fdinfo."""
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(fd.readlink()) == "anon_inode:[eventpoll]":
                found += Path("/proc/self/fdinfo", fd.name).read_text().count("tfd:")
    return found


@contextlib.contextmanager
def guests(idle: str = "poll") -> Iterator[tuple[Device, Device, Worker]]:
    door = Door()
    a, b = (Device(door, name, PAIRS, 16) for name in "ab")
    worker = Worker(door, idle=idle)
    for device in (a, b):
        device.start(range(PAIRS))
    b.post(range(PAIRS), 8)
    worker.add_wire(a.port, b.port, hold=True, hold_timeout_ms=1000)
    try:
        yield a, b, worker
    finally:
        worker.close()
        a.close()
        b.close()


def test_what_is_reported_of_a_port_ends_before_a_change_of_it_lets_its_files_be_closed() -> None:
    before = reported()
    with guests() as (a, b, worker):
        start_rounds(worker)
        fall_quiet(worker)
        assert reported() - before == len(PARKED)
        a.port.stop_queue(2 * 39 + 1)
        assert reported() == before
        regather(worker)
        fall_quiet(worker)
        assert reported() - before == len(PARKED) - 1
        for pair in range(PAIRS - 1):
            a.drivers[pair].send(frame(pair))
            os.eventfd_write(a.kicks[2 * pair + 1], 1)
        pass_time(RECALL_US)
        rounds(worker, 200)
        assert [b.drivers[pair].receive() for pair in range(PAIRS - 1)] == [frame(pair) for pair in range(PAIRS - 1)]
    assert reported() == before


@pytest.mark.parametrize(("idle", "times"), [("adaptive", 3), ("interrupt", 1), ("poll", 3)])
def test_kicks_of_parked_rings_are_heard_awake_and_asleep(idle: str, times: int) -> None:
    before = reported()
    with guests(idle) as (a, b, worker):
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            for _ in range(times):
                wait_until("lanes are parked", MAX_WAIT, lambda: reported() - before == len(PARKED))
                for pair in range(PAIRS):
                    a.drivers[pair].send(frame(pair))
                    if a.queues[2 * pair + 1].used_flags == 0:
                        os.eventfd_write(a.kicks[2 * pair + 1], 1)
                assert [b.drivers[pair].receive() for pair in range(PAIRS)] == [frame(pair) for pair in range(PAIRS)]
        finally:
            worker.stop()
            thread.join(MAX_WAIT)
        assert not thread.is_alive()
        assert reported() == before
