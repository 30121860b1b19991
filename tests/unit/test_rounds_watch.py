"""A worker that is stuck is told from one that has nothing to do."""

from __future__ import annotations

import threading
import time

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import affinity, core_watch
from fastvhost.control.rounds_watch import RoundsWatch, Stuck
from fastvhost.control.switch import Switch
from fastvhost.dataplane.door import Door
from tests.unit.stuck_worker import StuckWorker


class Counted:
    """A worker, and its thread."""

    rounds = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker = self
        self.without_core = False

    def lacks_core(self) -> bool:
        return self.without_core


def test_a_worker_without_a_round_is_told_of_once_and_so_is_its_next_round() -> None:
    one, other = Counted("one"), Counted("other")
    watch = RoundsWatch([one, other], 0.0)
    told = []
    for second in range(1, 30):
        one.rounds += second >= 20
        other.rounds += 1
        told += watch.look(float(second))
        assert watch.stuck == (["one"] if 5 <= second < 20 else [])
    assert told == [Stuck("one", 5.0), Stuck("one", 0.0)]


def test_every_worker_has_to_make_a_round_between_two_beats() -> None:
    one, other = Counted("one"), Counted("other")
    watch = RoundsWatch([one, other], 0.0)
    assert not watch.take()
    one.rounds = 1
    watch.look(1.0)
    assert not watch.take()
    other.rounds = 7
    watch.look(2.0)
    assert watch.take()
    assert not watch.take()
    # In any order, and not at the same look.
    other.rounds = 8
    watch.look(3.0)
    one.rounds = 2
    watch.look(4.0)
    assert watch.take()


def test_time_in_which_the_whole_process_was_stopped_counts_as_a_second() -> None:
    watch = RoundsWatch([Counted("one")], 0.0)
    assert watch.look(3600.0) == []
    assert watch.look(3600.5) == []


def test_a_worker_without_a_core_is_told_of_and_no_reason_for_a_restart() -> None:
    one = Counted("one")
    watch = RoundsWatch([one], 0.0)
    one.without_core = True
    assert [told for second in range(1, 10) for told in watch.look(float(second))] == [Stuck("one", 5.0, True)]
    assert watch.take()
    one.without_core = False
    watch.look(10.0)
    assert not watch.take()


def test_a_worker_that_waits_in_the_kernel_is_stuck_and_one_that_sleeps_is_not() -> None:
    switch = Switch("null:,name=a", "null:,name=b", idle="interrupt")
    held = StuckWorker(Door(), "held")
    with switch:
        (idle,) = switch.wiring.workers
        try:
            there = Held(held)
            held.stick()    # before the watch begins: what it did until then would excuse it once
            watch = RoundsWatch([there, idle], time.monotonic(), 0.3)
            told: list[Stuck] = []

            def look() -> bool:
                told.extend(watch.look(time.monotonic()))
                return bool(told)

            wait_until("it is told of", MAX_WAIT, look)
            assert (told[0].worker, told[0].lacks_core, watch.stuck) == ("held", False, ["held"])
            assert not watch.take()
            held.let_go()
            wait_until("it goes on", MAX_WAIT, lambda: look() and len(told) == 2)
            assert (told[1], watch.stuck) == (Stuck("held", 0.0), [])
        finally:
            held.close()


class Held:
    """The thread of a worker that is stuck, as WorkerThread has it."""

    def __init__(self, stuck: StuckWorker) -> None:
        self.name, self.worker = stuck.worker.name, stuck.worker
        self._native_id = stuck.thread.native_id

    def lacks_core(self) -> bool:
        return not affinity.waits(self._native_id or 0)


def test_a_thread_that_runs_does_not_wait_and_one_that_has_ended_does_not_either() -> None:
    assert not affinity.waits(threading.get_native_id())
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    assert not affinity.waits(ended.native_id or 0)


def test_a_worker_lacks_a_core_where_other_work_has_it_and_not_where_it_runs_or_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Switch("null:,name=a", "null:,name=b", idle="interrupt") as switch:
        (thread,) = switch.wiring.workers
        for ran, waits, lacks in ((5, False, False), (5, False, True), (6, False, False), (6, True, False)):
            monkeypatch.setattr(core_watch, "run_time", lambda _, ran=ran: ran)
            monkeypatch.setattr(affinity, "waits", lambda _, waits=waits: waits)
            assert thread.lacks_core() == lacks
        monkeypatch.setattr(core_watch, "run_time", lambda _: None)
        assert not thread.lacks_core()
        assert not thread.lacks_core()
