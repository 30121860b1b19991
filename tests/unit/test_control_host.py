"""Where workers go on made-up hosts, and the warnings for the operator."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from fastvhost.control import host
from fastvhost.control.core_watch import CoreWatch, run_delay
from fastvhost.control.errors import UsageError
from fastvhost.control.host import HostState, plan_cores
from fastvhost.control.placement import Affinity, Place, PlacementWatch


def state(allowed: set[int], busy: dict[int, float] | None = None) -> HostState:
    users = {core: f" (busy, pid {core})" for core in busy or {}}
    return HostState(frozenset(range(4)), frozenset(allowed), busy or {}, 0, users)


def test_the_default_worker_keeps_away_from_the_control_planes_core_and_from_busy_ones() -> None:
    plan = plan_cores((), state({0, 1, 2, 3}, {3: 90.0}))
    assert plan.worker_cores == (2,)
    assert plan.control_cores == {0, 1, 3}
    assert plan.warnings == ()


def test_with_one_core_worker_and_control_share_it_and_the_operator_hears_of_it() -> None:
    plan = plan_cores((), state({2}))
    assert plan.worker_cores == (None,)
    assert plan.control_cores == {2}
    assert "the only one allowed" in plan.warnings[0]


def test_every_core_busy_is_a_warning_by_default_too() -> None:
    plan = plan_cores((), state({0, 1}, {0: 100.0, 1: 60.0}))
    assert plan.worker_cores == (1,)
    assert "core 1 is 60 % busy with other work (busy, pid 1)" in plan.warnings[0]


def test_asked_cores_are_taken_in_order_and_the_rest_is_for_control() -> None:
    plan = plan_cores((3, 1), state({0, 1, 2, 3}))
    assert plan.worker_cores == (3, 1)
    assert plan.control_cores == {0, 2}
    assert plan.warnings == ()


def test_a_core_this_host_lacks_is_an_error_with_the_cores_it_has() -> None:
    with pytest.raises(UsageError, match="no core 7; it has 0-3"):
        plan_cores((7,), state({0, 1}))


def test_a_core_that_is_not_allowed_is_a_warning_and_its_worker_runs_unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "may_pin", lambda _core: False)
    plan = plan_cores((2,), state({0, 1}))
    assert plan.worker_cores == (None,)
    assert "core 2 is not allowed" in plan.warnings[0]


def test_two_workers_on_one_core_a_busy_core_and_no_core_left_are_warnings() -> None:
    plan = plan_cores((0, 0, 1), state({0, 1}, {1: 50.0}))
    assert any("2 workers share core 0" in warning for warning in plan.warnings)
    assert any("core 1 is 50 % busy" in warning for warning in plan.warnings)
    assert any("no core is left to the control plane" in warning for warning in plan.warnings)
    assert plan.control_cores == {0, 1}


def test_a_core_that_no_work_is_left_for_gets_no_worker_and_is_named_with_the_remedy() -> None:
    plan = plan_cores((3, 1, 2, 0), state({0, 1, 2, 3}), 2)
    assert plan.worker_cores == (3, 1)
    assert plan.control_cores == {0, 2}
    assert plan.warnings == (
        "these ports have work for 2 of the 4 workers asked for, none is started for core 2, 0; "
        "leave the last 2 out of --cores, or give ports more queue pairs (queues=N)",
    )
    assert plan_cores((3, 1), state({0, 1, 2, 3}), 2).warnings == ()
    with pytest.raises(UsageError, match="no core 7"):
        plan_cores((0, 7), state({0, 1}), 1)


def test_this_host_is_observed_in_a_blink() -> None:
    seen = host.observe()
    assert seen.allowed == os.sched_getaffinity(0)
    assert seen.allowed <= seen.present
    assert set(seen.busy) == seen.present
    assert host.may_pin(min(seen.allowed))
    assert not host.may_pin(8000)


def test_a_program_that_keeps_a_core_busy_is_found_and_named() -> None:
    core = max(os.sched_getaffinity(0))
    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as spinner:
        try:
            assert spinner.stdout is not None
            spinner.stdout.readline()
            (warning,) = host.observe().busy_warnings((core,))
        finally:
            spinner.kill()
    assert f"core {core} is " in warning
    assert "% busy with other work" in warning


def test_a_worker_that_waits_for_its_core_is_mentioned_once_until_it_recovers() -> None:
    waited = 0
    watch = CoreWatch(lambda _thread: waited)
    workers = [("worker0", 1, 3)]
    assert watch.check(workers, 0.0) == []
    waited += 500_000_000
    (warning,) = watch.check(workers, 1.0)
    assert "worker0 waited 50 % of the time for core 3" in warning
    waited += 500_000_000
    assert watch.check(workers, 2.0) == []
    assert watch.check(workers, 3.0) == []
    waited += 300_000_000
    assert len(watch.check(workers, 4.0)) == 1


def test_a_wait_that_lasted_longer_than_the_time_between_two_looks_is_told_in_seconds() -> None:
    """The kernel counts a wait when it ends, so all of a long one falls into one interval: once 336 % were reported."""
    waited = 0
    watch = CoreWatch(lambda _thread: waited)
    watch.check([("worker0", 1, 0)], 0.0)
    waited += 16_800_000_000
    (warning,) = watch.check([("worker0", 1, 0)], 5.0)
    assert warning.startswith("worker0 waited 16.8 s for core 0: ")
    assert "%" not in warning


class Cpuset:
    """Threads 1 to 9 and the cores that they may use; a kernel that brings none of them back by itself."""

    def __init__(self) -> None:
        self.cores = frozenset({0, 1, 2, 3})
        self.threads = dict.fromkeys(range(1, 10), frozenset({3}))

    def shrink(self, *cores: int) -> None:
        self.cores = frozenset(cores)
        self.threads = {thread: mask & self.cores or self.cores for thread, mask in self.threads.items()}

    def pin(self, thread: int, cores: frozenset[int]) -> str:
        self.threads[thread] = cores & self.cores
        return ""

    def watch(self) -> PlacementWatch:
        return PlacementWatch(Affinity(lambda thread: self.threads[thread], lambda core: core in self.cores, self.pin))


def test_a_worker_that_a_cpuset_takes_off_its_core_is_told_and_brought_back_when_that_grows() -> None:
    cpuset = Cpuset()
    watch = cpuset.watch()
    place = Place("worker0", (1, 2), frozenset({3}))
    assert watch.check([place]) == []
    cpuset.shrink(0, 1)
    (said,) = watch.check([place])
    assert said.startswith("worker0 was moved from core 3 to 0-1: the cpuset of this process has become narrower")
    assert "AllowedCPUs=" in said
    assert watch.check([place]) == []
    cpuset.cores = frozenset({0, 1, 2, 3})
    assert watch.check([place]) == []
    assert watch.check([place]) == ["worker0 is back on core 3"]
    assert cpuset.threads[2] == {3}
    assert watch.check([place]) == []


def test_a_worker_that_somebody_moved_by_hand_is_told_and_left_where_it_is() -> None:
    cpuset = Cpuset()
    watch = cpuset.watch()
    place = Place("worker0", (1,), frozenset({3}))
    cpuset.threads[1] = frozenset({2})
    assert watch.check([place]) == ["worker0 was moved from core 3 to 2 by somebody who may; it stays there"]
    assert watch.check([place]) == watch.check([place]) == []
    assert cpuset.threads[1] == {2}
    cpuset.threads[1] = frozenset({3})
    assert watch.check([place]) == ["worker0 is back on core 3"]


def test_ended_threads_and_places_that_lost_only_some_of_their_cores_are_not_logged() -> None:
    cpuset = Cpuset()
    cpuset.threads = {1: frozenset(), 2: frozenset({0})}
    places = [Place("worker0", (1,), frozenset({3})), Place("control", (2,), frozenset({0, 1}))]
    assert cpuset.watch().check([*places, Place("none", (), frozenset())]) == []


def test_a_stopped_process_does_not_count_as_waiting() -> None:
    watch = CoreWatch(lambda _thread: 0)
    watch.check([("worker0", 1, None)], 0.0)
    assert watch.check([("worker0", 1, None)], 3600.0) == []


def test_a_kernel_that_does_not_count_is_no_error() -> None:
    assert CoreWatch(lambda _thread: None).check([("worker0", 1, 0)], 0.0) == []
    assert run_delay(2**22 + 1) is None
    assert (run_delay(threading.get_native_id()) or 0) >= 0
