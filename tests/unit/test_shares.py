"""Ports share a worker by the time that their frames take, not by frames, visits or queue pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import NullPort
from fastvhost.dataplane.worker import Worker
from tests.probes.shares import TICKS_PER_US, BusyPort, regather, rounds, start_rounds

US = TICKS_PER_US
LONG, SHORT = 10 * US, 2 * US


@contextmanager
def shared(*ports: BusyPort, egress: BusyPort | None = None) -> Iterator[Worker]:
    """A worker with one wire from each port, and a clock that only visits advance."""
    worker = Worker(Door())
    sink = egress or NullPort("sink")
    for port in ports:
        worker.add_wire(port, sink, hold=True, hold_timeout_ms=60_000)
    start_rounds(worker)
    try:
        yield worker
    finally:
        worker.close()


def share(port: BusyPort, *others: BusyPort) -> float:
    return port.spent / (port.spent + sum(other.spent for other in others))


def test_a_port_whose_frames_take_long_gets_half_of_the_time_beside_another() -> None:
    heavy, honest = BusyPort("heavy", cost=LONG), BusyPort("honest", cost=SHORT)
    with shared(heavy, honest) as worker:
        rounds(worker, 5000)
        assert share(honest, heavy) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("frame_cost", [2 * US, 25 * US], ids=["32 GB/s", "2.6 GB/s"])
def test_a_port_of_64_byte_frames_gets_half_of_the_time_beside_one_of_64_kib_frames(frame_cost: int) -> None:
    """A visit moves four of those. Where memory is slow they take 100 us, which is the most that is charged."""
    long, honest = BusyPort("long", cost=0, bytes=65_226, frame_cost=frame_cost), BusyPort("honest", cost=SHORT)
    with shared(long, honest) as worker:
        rounds(worker, 20_000)
        assert share(honest, long) == pytest.approx(0.5, abs=0.02)


def test_three_ports_get_a_third_each_whatever_a_visit_takes() -> None:
    ports = [BusyPort(str(cost), cost=cost) for cost in (LONG, SHORT, 70 * US)]
    with shared(*ports) as worker:
        rounds(worker, 10_000)
        assert [port.spent / sum(p.spent for p in ports) for port in ports] == pytest.approx([1 / 3] * 3, abs=0.02)


def test_128_queue_pairs_of_a_port_get_as_much_as_the_one_of_another() -> None:
    many, one = BusyPort("many", pairs=128, cost=LONG), BusyPort("one", cost=SHORT)
    with shared(many, one) as worker:
        rounds(worker, 20_000)
        assert share(one, many) == pytest.approx(0.5, abs=0.02)
        assert max(many.visits) - min(many.visits) <= 1  # its lanes take turns


def test_a_worker_is_busy_in_rounds_that_move_frames_and_in_no_others() -> None:
    busy, idle = BusyPort("busy", cost=LONG), BusyPort("idle", frames=0, cost=0)
    with shared(busy, idle) as worker:
        rounds(worker, 1000)
        assert worker.busy_seconds * 1e6 == pytest.approx(busy.spent / TICKS_PER_US, rel=0.01)
        busy.set_load(0, LONG)    # a look that finds nothing takes as long
        before = worker.busy_seconds
        rounds(worker, 1000)
        assert worker.busy_seconds == before


def test_a_port_beside_those_that_have_nothing_is_visited_in_every_round() -> None:
    busy, idle = BusyPort("busy", pairs=4, cost=LONG), BusyPort("idle", frames=0, cost=0)
    with shared(busy, idle) as worker:
        assert rounds(worker, 1000) >= 1000 * 64
        assert max(busy.visits) - min(busy.visits) <= 1


def test_others_are_looked_at_again_after_a_few_visits_of_128_costly_pairs() -> None:
    """Ports that had nothing for a moment, and then have frames, wait for 25 us and a visit, not for 128 visits."""
    many, late = BusyPort("many", pairs=128, cost=LONG), BusyPort("late", frames=0, cost=0)
    with shared(many, late) as worker:
        rounds(worker, 1000)
        late.set_load(64, SHORT)
        before = many.spent
        while not late.spent:
            rounds(worker, 1)
        assert many.spent - before <= 25 * US + 2 * LONG


def test_a_port_that_had_nothing_to_send_has_saved_up_25_us_at_the_most() -> None:
    heavy, late = BusyPort("heavy", cost=LONG), BusyPort("late", frames=0, cost=0)
    with shared(heavy, late) as worker:
        rounds(worker, 1000)
        late.set_load(64, SHORT)
        start = heavy.spent, late.spent
        rounds(worker, 3000)
        assert late.spent - start[1] == pytest.approx(heavy.spent - start[0], rel=0.02)


def test_a_port_that_waits_for_room_saves_nothing_up_either() -> None:
    heavy, held = BusyPort("heavy", cost=LONG), BusyPort("held", cost=SHORT)
    full = BusyPort("full", frames=0, cost=0)
    worker = Worker(Door())
    worker.add_wire(heavy, NullPort("sink"), hold=True, hold_timeout_ms=60_000)
    worker.add_wire(held, full, hold=True, hold_timeout_ms=60_000)
    start_rounds(worker)
    full.set_full(True)
    rounds(worker, 1000)
    assert sum(held.visits) == 1  # its burst waits
    full.set_full(False)
    start = heavy.spent, held.spent
    rounds(worker, 3000)
    assert held.spent - start[1] == pytest.approx(heavy.spent - start[0], rel=0.02)
    worker.close()


def test_a_port_whose_frames_are_all_bad_pays_for_the_looking() -> None:
    """Its visits move nothing, and take as long as they take."""
    bad, honest = BusyPort("bad", pairs=128, frames=0, cost=LONG, bad=True), BusyPort("honest", cost=SHORT)
    with shared(bad, honest) as worker:
        rounds(worker, 20_000)
        assert bad.spent > 0.4 * honest.spent
        assert share(honest, bad) >= 0.48


def test_a_visit_during_which_another_program_had_the_core_is_charged_100_us() -> None:
    unlucky, other = BusyPort("unlucky", cost=SHORT), BusyPort("other", cost=SHORT)
    with shared(unlucky, other) as worker:
        rounds(worker, 100)
        unlucky.set_load(64, 100_000 * US)
        spent = unlucky.spent
        while unlucky.spent == spent:
            rounds(worker, 1)
        unlucky.set_load(64, SHORT)
        start = other.spent
        visits = sum(unlucky.visits)
        while sum(unlucky.visits) == visits:
            rounds(worker, 1)
        assert other.spent - start <= 110 * US


def test_a_lone_frame_of_many_pieces_is_paid_for_beyond_that() -> None:
    pieces, honest = BusyPort("pieces", frames=1, cost=400 * US), BusyPort("honest", cost=SHORT)
    with shared(pieces, honest) as worker:
        rounds(worker, 20_000)
        assert share(honest, pieces) == pytest.approx(0.5, abs=0.02)


def test_the_accounts_outlive_a_visit_of_control() -> None:
    """Otherwise a port could clear its account by sending messages."""
    heavy, honest = BusyPort("heavy", cost=LONG), BusyPort("honest", cost=SHORT)
    with shared(heavy, honest) as worker:
        for _ in range(3000):
            regather(worker)
            rounds(worker, 1)
        assert share(honest, heavy) == pytest.approx(0.5, abs=0.02)


def test_quiet_lanes_stay_quiet_when_control_was_there() -> None:
    quiet, busy = BusyPort("quiet", pairs=64, frames=0, cost=US), BusyPort("busy", cost=SHORT)
    with shared(quiet, busy) as worker:
        rounds(worker, 5000)
        spent = quiet.spent
        regather(worker)
        rounds(worker, 10)
        assert quiet.spent == spent


def test_a_quiet_lane_of_a_port_that_uses_up_its_share_has_its_turn_soon() -> None:
    many, other = BusyPort("many", pairs=8, cost=LONG, frames=0), BusyPort("other", cost=SHORT)
    with shared(many, other) as worker:
        rounds(worker, 10_000)
        spent = many.spent
        rounds(worker, 100)
        assert many.spent == spent  # all of them are quiet
        many.set_load(64, LONG)
        rounds(worker, 200)
        assert min(many.visits) >= 1
