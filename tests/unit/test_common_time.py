"""Which time counts as that in which the load's thread and the worker both had a CPU."""

from __future__ import annotations

from tests.probes.common_time import CommonTime

US = 1000
SLICE = 100 * US
WAIT = 3000 * US


def whole(common: CommonTime, n: int, *, frames: int = 10, waited: int = 0) -> None:
    """Slices in which the load's thread had its CPU."""
    for number in range(n):
        common.add(SLICE, SLICE, frames, waited if number == n - 1 else 0)


def counted(common: CommonTime) -> tuple[int, int]:
    """Microseconds, frames."""
    return common.nanoseconds // US, common.frames


def test_all_time_counts_where_both_run_and_the_last_slice_once_the_worker_goes_on() -> None:
    common = CommonTime()
    whole(common, 11)
    assert counted(common) == (1000, 100)


def test_time_in_which_the_worker_moves_nothing_and_does_not_wait_counts() -> None:
    """It sleeps, or is held, or works for another port."""
    common = CommonTime()
    whole(common, 10)
    whole(common, 30, frames=0)
    whole(common, 1)
    assert counted(common) == (4000, 100)


def test_a_wait_of_the_worker_is_subtracted_once_it_is_over() -> None:
    common = CommonTime()
    whole(common, 10)
    whole(common, 30, frames=0)
    whole(common, 1, waited=WAIT)
    whole(common, 2)
    assert counted(common) == (1200, 120)


def test_a_worker_that_is_held_and_then_waits_has_lost_the_time_in_which_it_was_held() -> None:
    common = CommonTime()
    whole(common, 10)
    whole(common, 60, frames=0)
    whole(common, 1, waited=WAIT)
    whole(common, 1)
    assert counted(common) == (7100 - 3000, 110)


def test_slices_in_which_the_thread_of_the_load_lost_its_cpu_are_left_out_until_frames_move_again() -> None:
    common = CommonTime()
    whole(common, 10)
    common.add(WAIT, SLICE, 640, 0)
    whole(common, 2, frames=0)
    whole(common, 12)
    assert counted(common) == (2000, 200)


def test_a_worker_that_does_not_go_on_soon_has_lost_the_rest() -> None:
    """After the thread of the load lost its CPU: the worker may have gone to sleep, and takes a while to wake up."""
    common = CommonTime()
    whole(common, 1)
    common.add(WAIT, SLICE, 640, 0)
    whole(common, 30, frames=0)
    whole(common, 1)
    assert counted(common) == (100 + 2700, 10)


def test_where_both_lost_their_cpus_a_part_of_the_time_without_frames_is_that_of_a_wait() -> None:
    """It is as large as that of the waits in all of that time, to which half of the left-out slices belong."""
    common = CommonTime()
    whole(common, 10)
    whole(common, 30, frames=0)
    common.add(WAIT - 3 * SLICE, SLICE, 0, 0)
    whole(common, 2, frames=0)  # left out, and so is the next one
    whole(common, 1, waited=WAIT)
    still, left_out = SLICE // 2 + 30 * SLICE, WAIT
    assert counted(common) == ((1000 * US + 30 * SLICE - still * WAIT // (still + left_out // 2)) // US, 100)


def test_where_both_lost_their_cpus_and_the_worker_only_waited_nothing_of_that_time_counts() -> None:
    common = CommonTime()
    whole(common, 10)
    whole(common, 30, frames=0)
    common.add(WAIT, SLICE, 0, 0)
    whole(common, 1, waited=2 * WAIT)
    assert counted(common) == (950, 100)
