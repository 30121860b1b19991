"""Where a worker that only delivers to a port is late, the port's control thread comes to the door in its place.

First step by step, then with threads, then with workers of a switch of which one waits in the kernel.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane.door import Door, WorkerStuckError
from fastvhost.dataplane.rewiring import Rewiring
from fastvhost.dataplane.worker import Worker
from tests.probes import delivery_locks
from tests.probes.doors import PostingPort, SteppedWorker
from tests.unit.stuck_worker import StuckWorker
from tests.unit.test_learn import ethernet, mac
from tests.unit.test_rewiring import awaited, frames, runs_and_sticks, send, yard
from tests.unit.test_switch_members import Members, members

SHORT = 0.05
"""Seconds that a test waits for a worker that does not come."""


class Steps:
    """A port with two queues, a worker that owns it, and one that only delivers to it. Both run."""

    def __init__(self, locks: int = 2) -> None:
        self.door = Door()
        self.port = PostingPort(self.door, locks)
        self.owner = SteppedWorker(self.door, "owner", self.port)
        self.other = SteppedWorker(self.door, "other", delivers_to=[self.port])
        self.owner.enter()
        self.other.enter()


def test_a_change_waits_for_who_only_delivers_as_long_as_nobody_stands_in() -> None:
    s = Steps()
    assert not s.port.post(7)
    assert s.other.called
    assert s.owner.look(s.port)
    assert not s.other.look(s.port)
    assert s.port.value == 7


def test_control_comes_in_the_place_of_who_only_delivers_and_the_owner_goes_on() -> None:
    s = Steps()
    s.port.post(7)
    assert s.owner.look(s.port)
    s.port.stand_in()
    assert s.port.value == 7
    assert not s.owner.look(s.port)
    assert not s.other.look(s.port)
    assert s.port.post(7)
    assert s.port.changes == 1


@pytest.mark.parametrize("queue", [0, 1])
def test_nobody_stands_in_for_a_worker_that_is_delivering_to_any_queue_of_the_port(queue: int) -> None:
    s = Steps()
    s.port.post(7)
    s.owner.look(s.port)
    assert s.port.hold(queue)
    s.port.stand_in()
    assert s.port.missing == {s.other.number}
    assert s.port.value == 0
    assert s.port.hold(queue ^ 1)
    for each in (0, 1):
        s.port.let_go(each)
    s.port.stand_in()
    assert s.port.value == 7


def test_nobody_stands_in_for_an_owner() -> None:
    s = Steps()
    s.port.post(7)
    s.port.stand_in()
    assert s.port.missing == {s.owner.number, s.other.number}
    s.other.look(s.port)
    s.port.stand_in()
    assert s.port.missing == {s.owner.number}
    assert s.port.value == 0


def test_at_a_port_that_is_not_shared_nobody_stands_in() -> None:
    s = Steps(locks=0)
    s.port.post(7)
    s.owner.look(s.port)
    s.port.stand_in()
    assert s.port.value == 0


def test_an_owner_that_waited_too_long_is_called_again_and_comes() -> None:
    s = Steps()
    s.port.post(7)
    s.owner.stand()  # in vain: it has asked and waits no longer than 20 ms
    assert s.port.missing == {s.owner.number, s.other.number}
    with ThreadPoolExecutor() as pool:
        stands_in = pool.submit(s.port.stand_in)
        wait_until("the owner is called", MAX_WAIT, lambda: s.owner.called or stands_in.done())
        s.owner.stand()
        stands_in.result(MAX_WAIT)
    while not s.port.post(7):  # where the machine was slow, control stood in for 20 ms and the owner had not come
        s.owner.look(s.port)
        s.port.stand_in()
    assert s.port.value == 7


def test_where_an_owner_does_not_come_in_time_the_late_one_is_missing_again_and_the_locks_are_free() -> None:
    s = Steps()
    s.port.post(7)
    s.owner.stand()
    s.port.stand_in()
    assert s.port.value == 0
    assert s.port.missing == {s.owner.number, s.other.number}
    assert s.port.hold(0)
    assert s.port.hold(1)
    assert s.other.look(s.port)
    assert not s.owner.look(s.port)
    assert s.port.value == 7


def test_a_change_in_which_control_stood_in_can_be_followed_by_one_in_which_all_come() -> None:
    s = Steps()
    for number in range(1, 6):
        assert not s.port.post(number)
        assert s.owner.look(s.port)
        if number % 2:
            s.port.stand_in()
        else:
            assert not s.other.look(s.port)
        assert s.port.post(number)
        assert s.port.value == number


def test_who_delivers_without_end_and_never_comes_sees_no_change_half_done() -> None:
    """Changes take some 5 ms each: so long is a worker waited for."""
    s = Steps()
    with ThreadPoolExecutor() as pool:
        delivers = pool.submit(s.other.deliver, s.port)
        owns = pool.submit(s.owner.run, 2**63, 1000)
        try:
            for number in range(1, 101):
                assert s.port.change(number, 20_000)
                assert s.port.value == number
        finally:
            s.other.stop()
            s.owner.stop()
        assert delivers.result(MAX_WAIT) > 0
        owns.result(MAX_WAIT)
    assert (s.owner.torn, s.other.torn) == (0, 0)


def test_a_change_that_waits_for_a_worker_whose_lanes_go_elsewhere_waits_for_it_no_longer() -> None:
    door = Door()
    port = PostingPort(door)
    workers = [SteppedWorker(door, name, port) for name in ("before", "after")]
    for worker in workers:
        worker.enter()
    with ThreadPoolExecutor() as pool:
        change = pool.submit(port.change, 7, int(MAX_WAIT * 1000))
        wait_until("both are called", MAX_WAIT, lambda: all(worker.called for worker in workers))
        workers[0].part_with(port)
        wait_until("the other one makes it", MAX_WAIT / 2, lambda: workers[1].stand() or port.value == 7)
        assert change.result(MAX_WAIT)


# Workers


@contextlib.contextmanager
def one_is_late() -> Iterator[tuple[Members, StuckWorker]]:
    """Ports a and c of a switch are of a worker that can be made to wait in the kernel, b and d of another one."""
    with members("abcd", workers=2) as m:
        late = StuckWorker(m.door, "worker0", worker=m.workers[0])
        other = threading.Thread(target=m.workers[1].run)
        other.start()
        try:
            yield m, late
        finally:
            m.workers[1].stop()
            late.close()
            other.join(MAX_WAIT)


def test_a_worker_that_is_stuck_stops_changes_of_its_own_ports_alone() -> None:
    with one_is_late() as (m, late):
        late.stick()
        for number in range(10):
            with m.guests["b"].port.change(MAX_WAIT):
                m.guests["b"].port.set_enabled(0, number % 2 == 1)
        with pytest.raises(WorkerStuckError, match="worker0 "), m.guests["a"].port.change(SHORT):
            m.guests["a"].port.set_enabled(0, False)
        m.send("d", ethernet(mac(1), mac(3)))
        assert m.guests["b"].driver.receive() == ethernet(mac(1), mac(3))
        late.let_go()
        with m.guests["a"].port.change(MAX_WAIT):
            m.guests["a"].port.set_enabled(0, False)


def test_a_worker_that_is_stuck_at_a_port_stops_changes_of_that_port() -> None:
    with one_is_late() as (m, late):
        late.stick()
        assert delivery_locks.hold(m.guests["b"].port, 0)
        with pytest.raises(WorkerStuckError, match="worker0 "), m.guests["b"].port.change(SHORT):
            m.guests["b"].port.set_enabled(0, False)
        delivery_locks.let_go(m.guests["b"].port, 0)
        with m.guests["b"].port.change(MAX_WAIT):
            m.guests["b"].port.set_enabled(0, False)


def test_a_worker_that_comes_back_delivers_to_a_port_as_it_is_by_then() -> None:
    with one_is_late() as (m, late):
        m.send("b", ethernet(mac(9), mac(1)))
        assert m.guests["a"].driver.receive() == ethernet(mac(9), mac(1))
        late.stick()
        with m.guests["b"].port.change(MAX_WAIT):
            m.guests["b"].port.stop_queue(0)
        m.guests["b"].start(0, base=m.guests["b"].port.queue_setup(0).base)
        m.send("a", ethernet(mac(1), mac(0)))
        late.let_go()
        assert m.guests["b"].driver.receive() == ethernet(mac(1), mac(0))


def test_a_port_that_was_moved_is_not_its_old_worker_s_any_more() -> None:
    """Of wires, then of a switch."""
    with yard("ab", "a:b b:a", workers=2) as y, runs_and_sticks(y) as late:
        assert y.rewiring.move(y.wires["a"], [y.workers[1]])
        assert y.rewiring.move(y.wires["b"], [y.workers[1]])
        other = threading.Thread(target=y.workers[1].run)
        other.start()
        late.stick()
        with y.guests["a"].port.change(MAX_WAIT):
            y.guests["a"].port.set_enabled(0, False)
            y.guests["a"].port.set_enabled(0, True)
        y.guests["b"].driver.post(4)
        send(y.guests["a"], range(4))
        assert awaited(y.guests["b"], 4) == frames(range(4))
        y.workers[1].stop()
        other.join(MAX_WAIT)
    with one_is_late() as (m, late):
        assert m.rewiring.move(m.wires["a"], [m.workers[1]])
        late.stick()
        with m.guests["a"].port.change(MAX_WAIT):
            m.guests["a"].port.set_enabled(0, False)


def test_a_worker_whose_first_port_of_a_switch_is_moved_to_it_comes_to_changes_of_all_its_ports() -> None:
    with members("abc", workers=1) as m:
        m.workers.append(Worker(m.door, "worker1"))
        m.rewiring = Rewiring(m.door, m.workers)
        late = StuckWorker(m.door, "worker1", worker=m.workers[1])
        first = threading.Thread(target=m.workers[0].run)
        first.start()
        assert m.rewiring.move(m.wires["a"], [m.workers[1]])
        late.stick()
        assert delivery_locks.hold(m.guests["b"].port, 0)  # as if it were there
        with pytest.raises(WorkerStuckError, match="worker1 "), m.guests["b"].port.change(SHORT):
            m.guests["b"].port.set_enabled(0, False)
        delivery_locks.let_go(m.guests["b"].port, 0)
        m.workers[0].stop()
        late.close()
        first.join(MAX_WAIT)
