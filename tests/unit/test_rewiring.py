"""Wires and ports of workers that run come, go and lead elsewhere; frames of other wires notice nothing."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane.door import Door, WorkerStuckError
from fastvhost.dataplane.port import NullPort
from fastvhost.dataplane.rewiring import Rewiring
from fastvhost.dataplane.wire import Wire
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory
from tests.standstill import settle
from tests.unit.rig import F_VERSION_1, GuestPort, frame
from tests.unit.session_bench import open_fds
from tests.unit.stuck_worker import StuckWorker

HOLD_MS = 60_000
SHORT = 0.05
"""Seconds that a test waits for a worker that does not come."""


class Yard:
    """Guests a, b, c and so on at ports of one door. Wires are made by the test, and known by their ingress."""

    def __init__(self, names: str, wires: str, workers: int = 1, size: int = 64) -> None:
        self.door = Door()
        self.size = size
        self.workers = [Worker(self.door, f"worker{number}") for number in range(workers)]
        self.guests = {name: self.guest(name) for name in names}
        self.wires: dict[str, Wire] = {}
        for number, (ingress, egress) in enumerate(way.split(":") for way in wires.split()):
            worker = self.workers[number % workers]
            self.wires[ingress] = worker.add_wire(
                self.guests[ingress].port, self.guests[egress].port if egress else None,
                hold=True, hold_timeout_ms=HOLD_MS,
            )  # fmt: skip
        self.rewiring = Rewiring(self.door, self.workers)

    def guest(self, name: str) -> GuestPort:
        guest = GuestPort(self.door, name, Memory.of(2 << 20), self.size, F_VERSION_1)
        guest.connect()
        return guest

    def wire(self, ingress: GuestPort, egress: GuestPort | None) -> Wire:
        return Wire(ingress.port, egress.port if egress else None, hold=True, hold_timeout_ms=HOLD_MS)

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
        for guest in self.guests.values():
            guest.close()


@contextlib.contextmanager
def yard(names: str, wires: str, workers: int = 1) -> Iterator[Yard]:
    made = Yard(names, wires, workers)
    try:
        yield made
    finally:
        made.close()


def send(guest: GuestPort, numbers: range) -> None:
    for number in numbers:
        guest.driver.send(frame(number))


def got(guest: GuestPort) -> list[bytes]:
    return [bytes(data) for data in guest.driver.receive_all()]


def awaited(guest: GuestPort, n: int) -> list[bytes]:
    """The next n frames that a worker which runs delivers to it."""
    return [bytes(guest.driver.receive()) for _ in range(n)]


@contextlib.contextmanager
def runs_and_sticks(y: Yard) -> Iterator[StuckWorker]:
    """The first worker runs, and can be made to wait in the kernel."""
    late = StuckWorker(y.door, "worker0", worker=y.workers[0])
    try:
        yield late
    finally:
        late.close()


def frames(numbers: range) -> list[bytes]:
    return [frame(number) for number in numbers]


def test_frames_that_wait_for_room_go_where_the_wire_leads_now_once_and_in_order() -> None:
    with yard("abc", "a:b b:a c:") as y:
        y.guests["b"].driver.post(3)
        y.guests["c"].driver.post(20)
        send(y.guests["a"], range(10))
        y.settle()
        assert y.workers[0].waiting == 7
        y.rewiring.commit(lead=[(y.wires["a"], y.guests["c"].port), (y.wires["b"], None)])
        y.settle()
        assert got(y.guests["b"]) == frames(range(3))
        assert got(y.guests["c"]) == frames(range(3, 10))
        assert y.guests["a"].port.counters().rx_frames == 10
        assert not any(y.guests["a"].port.counters().rx_dropped.values())
        assert y.workers[0].waiting == 0


def test_frames_that_wait_in_a_wire_that_is_taken_out_are_dropped_and_counted() -> None:
    with yard("ab", "a:b b:a") as y:
        y.guests["b"].driver.post(3)
        send(y.guests["a"], range(10))
        y.settle()
        y.rewiring.commit(lead=[(y.wires["a"], None), (y.wires["b"], None)])
        y.settle()
        assert y.guests["a"].port.counters().rx_dropped["no_egress"] == 7
        assert y.guests["a"].queues[1].used_index == (y.guests["a"].queues[1].base + 10) & 0xFFFF
        y.guests["b"].driver.post(9)
        y.rewiring.commit(lead=[(y.wires["a"], y.guests["b"].port)])
        send(y.guests["a"], range(20, 25))
        y.settle()
        assert got(y.guests["b"]) == frames(range(3)) + frames(range(20, 25))


def test_two_wires_that_swap_their_ends_in_one_change_never_lead_to_one_port_together() -> None:
    with yard("abcd", "a:b c:d", workers=2) as y:
        y.rewiring.commit(lead=[(y.wires["a"], y.guests["d"].port), (y.wires["c"], y.guests["b"].port)])
        for guest in y.guests.values():
            guest.driver.post(20)
        send(y.guests["a"], range(5))
        send(y.guests["c"], range(5, 10))
        y.settle()
        assert got(y.guests["d"]) == frames(range(5))
        assert got(y.guests["b"]) == frames(range(5, 10))


def test_a_wire_to_a_port_that_another_worker_delivers_to_is_refused_and_nothing_has_changed() -> None:
    with yard("abc", "a:b c:", workers=2) as y:
        with pytest.raises(ValueError, match="port b: worker0 delivers to share 0 of it"):
            y.rewiring.commit(lead=[(y.wires["c"], y.guests["b"].port)])
        y.guests["b"].driver.post(20)
        send(y.guests["a"], range(5))
        send(y.guests["c"], range(5))
        y.settle()
        assert got(y.guests["b"]) == frames(range(5))
        assert y.guests["c"].port.counters().rx_dropped["no_egress"] == 5


def test_a_port_that_joins_workers_that_run_gets_and_sends_frames() -> None:
    with yard("ab", "a:b b:a") as y, y.running():
        y.guests["c"] = c = y.guest("c")
        y.wires["c"] = y.wire(c, y.guests["b"])
        y.rewiring.commit(lead=[(y.wires["a"], None), (y.wires["b"], c.port)], join=[(y.wires["c"], [y.workers[0]])])
        for guest in y.guests.values():
            guest.driver.post(20)
        send(c, range(10))
        send(y.guests["b"], range(10, 20))
        assert awaited(y.guests["b"], 10) == frames(range(10))
        assert awaited(c, 10) == frames(range(10, 20))


def test_a_change_of_a_port_waits_for_a_worker_that_got_its_lanes_while_it_ran() -> None:
    with yard("ab", "a: b:", workers=2) as y, runs_and_sticks(y) as late:
        port = y.guests["b"].port
        y.rewiring.commit(lead=[(y.wires["a"], port)])
        late.stick()
        port.begin()
        port.set_link(False)
        assert not port.commit(SHORT)
        assert "worker0" in port.late
        late.let_go()
        assert port.commit(MAX_WAIT)
        assert not port.link_up


def test_a_port_that_left_leaves_no_file_and_no_place_at_the_door() -> None:
    with yard("ab", "a:b b:a") as y, y.running():
        gc.collect()
        before = open_fds()
        for _ in range(100):
            c = y.guest("c")
            wire = y.wire(c, y.guests["a"])
            y.rewiring.commit(lead=[(y.wires["a"], c.port), (y.wires["b"], None)], join=[(wire, y.workers)])
            y.rewiring.commit(
                lead=[(y.wires["a"], y.guests["b"].port), (y.wires["b"], y.guests["a"].port)], leave=[wire]
            )
            y.rewiring.dismiss(c.port)
            c.close()
        assert open_fds() == before
        for guest in y.guests.values():
            guest.driver.post(20)
        send(y.guests["a"], range(10))
        assert awaited(y.guests["b"], 10) == frames(range(10))


def test_where_a_worker_does_not_come_nothing_changes_and_the_next_try_does_it() -> None:
    with yard("abc", "a:b b:a c:") as y, runs_and_sticks(y) as late:
        for name in "bc":
            y.guests[name].driver.post(20)
        late.stick()
        with pytest.raises(WorkerStuckError, match="worker0 does not come to the door"):
            y.rewiring.commit(lead=[(y.wires["a"], y.guests["c"].port), (y.wires["b"], None)], wait_ms=20)
        late.let_go()
        send(y.guests["a"], range(5))
        assert awaited(y.guests["b"], 5) == frames(range(5))
        y.rewiring.commit(lead=[(y.wires["a"], y.guests["c"].port), (y.wires["b"], None)])
        send(y.guests["a"], range(5))
        assert awaited(y.guests["c"], 5) == frames(range(5))


def test_a_port_without_door_comes_and_goes_too() -> None:
    with yard("a", "a:") as y:
        null = NullPort("n")
        y.rewiring.commit(lead=[(y.wires["a"], null)])
        send(y.guests["a"], range(5))
        y.settle()
        assert null.counters().tx_frames == 5
        y.rewiring.commit(lead=[(y.wires["a"], None)])
        y.rewiring.dismiss(null)


def test_it_is_made_before_workers_run() -> None:
    with yard("a", "a:") as y, y.running():
        wait_until("it runs", MAX_WAIT, lambda: y.workers[0].running)
        with pytest.raises(ValueError, match="worker0 runs; a Rewiring is made before its workers start"):
            Rewiring(y.door, y.workers)
