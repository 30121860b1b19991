"""When a port whose memory keeps workers waiting is logged, when its connection ends, and how long it is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import fastvhost
from bench.guests.waits import MAX_WAIT
from fastvhost.backend.back_off import BackOff
from fastvhost.control.held_time import HeldTime, Judgement
from fastvhost.control.watch import WatchThread
from tests.unit.session_bench import Clock


def judgements(*holds: tuple[float, float], each: float = 0.001) -> list[Judgement]:
    """Judgements of one port that holds a worker at these times, for these seconds, reported in steps of 1 ms."""
    held, found = HeldTime(), []
    for visit, (at, seconds) in enumerate(holds):
        for part in range(round(seconds / each)):
            found.append(held.add(at + part * each, each, visit))
    return [one for one in found if one is not None]


def test_a_guest_that_is_swapped_in_now_and_then_is_logged_and_stays_connected() -> None:
    # 40 ms in each second, for a minute: 4 % of the time.
    found = judgements(*((float(second), 0.040) for second in range(60)))
    assert [one.too_much for one in found] == [False] * 12  # once in five seconds
    assert found[0].seconds == pytest.approx(0.010)


def test_waits_of_less_than_ten_milliseconds_are_not_logged() -> None:
    assert judgements(*((second / 10, 0.009) for second in range(50))) == []


def test_a_tenth_of_the_last_five_seconds_is_too_much_in_many_short_waits_as_in_a_long_one() -> None:
    one, many = judgements((0.0, 0.55)), judgements(*((at / 100, 0.002) for at in range(400)))
    assert [judgement.too_much for judgement in one] == [False, True]
    assert one[1].seconds == pytest.approx(0.5)
    assert many[0].too_much
    assert many[0].seconds == pytest.approx(0.5)


def test_what_lies_back_more_than_five_seconds_is_forgotten() -> None:
    assert not any(one.too_much for one in judgements((0.0, 0.45), (6.0, 0.45), (12.0, 0.45)))


def test_too_much_held_time_is_reported_now_and_then_not_each_millisecond() -> None:
    found = judgements((0.0, 2.0))
    assert sum(one.too_much for one in found) == pytest.approx(15, abs=1)


class Service:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def memory_holds(self, worker: str, seconds: float, *, too_much: bool) -> None:
        assert seconds >= 0.010
        self.told.append((worker, too_much))


class OneHold:
    worker, visit = "worker3", 1

    def __init__(self, port: str, seconds: float) -> None:
        self.port, self.seconds = port, seconds


class Holds:
    """A watch that finds these, then raises an error, then ends."""

    def __init__(self, *holds: OneHold) -> None:
        self.holds = list(holds)
        self.thread: WatchThread | None = None

    def meet(self, seconds: float) -> bool:  # noqa: ARG002
        return True

    def wait(self) -> list[OneHold]:
        if self.holds:
            return [self.holds.pop(0)]
        assert self.thread
        self.thread.stop()
        return []

    def stop(self) -> None:
        pass


def test_only_the_port_that_is_charged_is_judged() -> None:
    guilty, peer = Service(), Service()
    watch = Holds(OneHold("a", 0.02), OneHold("the tap", 9.0), OneHold("a", 0.49))
    watch.thread = WatchThread(watch, {"a": guilty, "b": peer})
    watch.thread.run()
    assert guilty.told == [("worker3", False), ("worker3", True)]
    assert peer.told == []


def test_a_port_backs_off_for_twice_as_long_each_time_and_for_a_minute_at_the_most() -> None:
    clock = Clock()
    back_off = BackOff(clock)
    assert back_off.ends_at is None
    waits = []
    for _ in range(8):
        waits.append(back_off.begin())
        assert back_off.ends_at == clock() + waits[-1]
        clock.now += waits[-1] - 0.01
        assert back_off.seconds_left == pytest.approx(0.01)
        clock.now += 0.02
        assert back_off.ends_at is None
        assert back_off.seconds_left == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_after_five_minutes_of_good_conduct_it_begins_anew() -> None:
    clock = Clock()
    back_off = BackOff(clock)
    for _ in range(4):
        clock.now += back_off.begin() + 299
    clock.now += 2
    assert back_off.begin() == 1


def test_a_program_that_attaches_to_a_guest_has_its_worker_looked_at_as_fwd_has(tmp_path: Path) -> None:
    def watches() -> int:
        return sum(isinstance(thread, WatchThread) for thread in threading.enumerate())

    before = watches()
    with fastvhost.attach(f"vhost-user:{tmp_path}/a.sock"):
        assert watches() == before + 1
    deadline = time.monotonic() + MAX_WAIT
    while watches() > before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
