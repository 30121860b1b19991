"""Ports of an Ethernet switch come and go while its workers run; frames of other ports notice nothing."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door, WorkerStuckError
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.rewiring import Rewiring
from fastvhost.dataplane.wire import Wire
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, Piece
from tests.standstill import settle
from tests.unit.rig import F_VERSION_1, MIB, RING_F_INDIRECT_DESC, GuestPort
from tests.unit.session_bench import open_fds
from tests.unit.stuck_worker import StuckWorker
from tests.unit.test_learn import EVERYBODY, ethernet, mac

ROOM = 5


class Members:
    """Guests a, b and so on at ports 0, 1 and so on of a switch with room for ROOM of them."""

    def __init__(self, names: str, workers: int, hold_ms: int) -> None:
        self.door = Door()
        self.hold = {"hold": hold_ms > 0, "hold_timeout_ms": hold_ms}
        self.guests = {name: self.guest(name) for name in names}
        self.table = ForwardingTable(ports=ROOM, addresses=1024)
        self.workers = [Worker(self.door, f"worker{i}") for i in range(workers)]
        self.bridge = Bridge([guest.port for guest in self.guests.values()], self.table)
        self.wires: dict[str, Wire] = {}
        for name, worker in zip(names, itertools.cycle(self.workers)):
            self.wires[name] = worker.add_wire(self.guests[name].port, None, bridge=self.bridge, **self.hold)
        self.rewiring = Rewiring(self.door, self.workers)

    def guest(self, name: str) -> GuestPort:
        guest = GuestPort(self.door, name, Memory.of(2 * MIB), 64, F_VERSION_1)
        guest.connect()
        guest.driver.post(32)
        return guest

    def enter(self, name: str, number: int) -> GuestPort:
        self.guests[name] = guest = self.guest(name)
        self.bridge.enter(number, guest.port)
        return guest

    def seat(self, name: str, number: int, worker: int, wait_ms: int = 5000) -> None:
        port = self.guests[name].port
        wire = Wire(port, None, bridge=self.bridge, **self.hold)
        self.rewiring.commit(join=[(wire, [self.workers[worker]])], seat=[(self.bridge, number, port)], wait_ms=wait_ms)
        self.wires[name] = wire

    def add(self, name: str, number: int, worker: int = 0) -> GuestPort:
        guest = self.enter(name, number)
        self.seat(name, number, worker)
        return guest

    def remove(self, name: str) -> None:
        guest = self.guests.pop(name)
        number = self.bridge.ports.index(guest.port)
        self.rewiring.commit(leave=[self.wires.pop(name)], seat=[(self.bridge, number, None)])
        self.rewiring.dismiss(guest.port, bridge=self.bridge)
        guest.close()

    def send(self, name: str, *frames: bytes) -> None:
        for frame in frames:
            self.guests[name].driver.send(frame)

    def settle(self) -> dict[str, list[bytes]]:
        """What each guest got. Only while no worker runs."""
        settle(*self.workers)
        return {name: guest.driver.receive_all() for name, guest in self.guests.items()}

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


@contextlib.contextmanager
def members(names: str, workers: int = 1, *, hold_ms: int = 0) -> Iterator[Members]:
    """hold_ms: how long frames wait for room; 0: none do."""
    made = Members(names, workers, hold_ms)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.close()
        for guest in made.guests.values():
            guest.close()


A, B, C = mac(0), mac(1), mac(2)


def awaited(guest: GuestPort, n: int) -> list[bytes]:
    return [bytes(guest.driver.receive()) for _ in range(n)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_comes_talks_and_goes_again_and_again_while_two_others_lose_nothing(workers: int) -> None:
    with members("ab", workers) as m, m.running():
        a, b = m.guests.values()
        m.send("a", ethernet(EVERYBODY, A))
        awaited(b, 1)
        m.send("b", ethernet(A, B))
        awaited(a, 1)
        before = 0
        for turn in range(50):
            c = m.add("c", 2, turn % workers)
            mine = [ethernet(B, A, bytes([turn, k] * 23)) for k in range(4)]
            m.send("a", *mine[:2])
            assert awaited(b, 2) == mine[:2]
            hello = ethernet(EVERYBODY, C, bytes([turn] * 46))
            m.send("c", hello)
            assert [awaited(a, 1), awaited(b, 1)] == [[hello], [hello]]
            m.send("b", ethernet(C, B))
            assert awaited(c, 1) == [ethernet(C, B)]
            m.send("a", *mine[2:])
            m.remove("c")
            assert awaited(b, 2) == mine[2:]
            m.send("a", ethernet(C, A))  # nobody's again
            assert awaited(b, 1) == [ethernet(C, A)]
            before = before or open_fds()
        assert open_fds() == before
        assert not any(sum(guest.port.counters().tx_dropped.values()) for guest in (a, b))


def test_nothing_is_left_of_a_port_that_went_for_the_next_one_with_its_number() -> None:
    with members("abc") as m:
        c = m.guests["c"].port
        m.bridge.guard(c, ["52:54:00:00:00:02"])
        m.bridge.isolate(c, "x")
        m.bridge.isolate(m.guests["b"].port, "x")
        m.bridge.mirror(m.guests["a"].port, c)
        m.bridge.limit_floods(c, 1)
        m.table.add("52:54:00:00:00:77", 2)
        m.send("c", ethernet(EVERYBODY, C), ethernet(EVERYBODY, mac(9)))
        m.settle()
        m.remove("c")
        assert m.bridge.ports == [m.guests["a"].port, m.guests["b"].port, None]
        assert not m.table.rows()
        assert m.table.reservations() == {}
        assert not any(m.table.counters(2).values())
        m.add("d", 2)
        hello = ethernet(EVERYBODY, mac(9))
        m.send("d", hello)
        assert m.settle() == {"a": [hello], "b": [hello], "d": []}
        m.send("b", hello)
        assert m.settle() == {"a": [hello], "b": [], "d": [hello]}


def test_vlans_and_policies_of_a_new_port_hold_from_its_first_frame_on() -> None:
    with members("ab") as m:
        c = m.enter("c", 4)
        m.bridge.set_vlans(4, native=7, tagged=None)
        m.bridge.guard(c.port, ["52:54:00:00:00:02"])
        m.send("a", ethernet(EVERYBODY, A))
        assert m.settle() == {"a": [], "b": [ethernet(EVERYBODY, A)], "c": []}
        m.seat("c", 4, 0)
        m.send("a", ethernet(EVERYBODY, A))
        m.send("c", ethernet(EVERYBODY, mac(9)), ethernet(EVERYBODY, C))
        got = m.settle()
        assert got["c"] == []
        assert [len(got[name]) for name in "ab"] == [1, 2]
        assert {frame[12:16] for frame in got["a"]} == {b"\x81\x00\x00\x07"}
        assert c.port.counters().rx_dropped["spoofed_source"] == 1


def test_ports_that_are_there_change_their_vlans_between_two_frames() -> None:
    with members("abc", workers=2) as m:
        for guest in m.guests.values():
            guest.driver.post(24)
        hello = ethernet(EVERYBODY, A)
        with m.running():
            m.send("a", hello)
            assert [awaited(m.guests[name], 1) for name in "bc"] == [[hello]] * 2
            assert m.table.rows()
            m.rewiring.set_vlans(m.bridge, [(0, 7, None), (1, 7, None)])
            assert not m.table.rows()
            m.send("a", hello)
            assert awaited(m.guests["b"], 1) == [hello]
            (tagged,) = awaited(m.guests["c"], 1)
            assert tagged[12:16] == b"\x81\x00\x00\x07"
            m.rewiring.set_vlans(m.bridge, [(1, 8, (9,))])
            m.send("b", hello)
            assert awaited(m.guests["c"], 1)[0][12:16] == b"\x81\x00\x00\x08"
            m.rewiring.set_vlans(m.bridge, [(number, 0, range(1, 4095)) for number in (0, 1)])
            m.send("a", hello)
            assert [awaited(m.guests[name], 1) for name in "bc"] == [[hello]] * 2


def test_vlans_that_cannot_be_change_nothing() -> None:
    with members("ab") as m:
        for change, said in (((0, 4095, None), "VLAN 4095: choose 0 to 4094"), ((2, 7, None), "ports 0 to 1")):
            with pytest.raises(ValueError, match=said):
                m.rewiring.set_vlans(m.bridge, [(1, 8, None), change])
        hello = ethernet(EVERYBODY, A)
        m.send("a", hello)
        assert m.settle()["b"] == [hello]


def test_a_port_lets_go_of_an_address_and_stays_guarded() -> None:
    with members("ab") as m:
        a, b = (m.guests[name].port for name in "ab")
        m.bridge.guard(a, ["52:54:00:00:00:01"])
        m.bridge.let_go(b, ["52:54:00:00:00:01"])
        assert m.table.reservations() == {"52:54:00:00:00:01": 0}
        m.bridge.let_go(a, ["52:54:00:00:00:01", "52:54:00:00:00:07"])
        m.bridge.guard(b, ["52:54:00:00:00:01"])
        m.send("a", ethernet(EVERYBODY, mac(1)))
        assert m.settle()["b"] == []
        assert a.counters().rx_dropped["spoofed_source"] == 1


def test_a_switch_of_one_worker_gets_a_second_one_with_a_new_port() -> None:
    with members("ab") as m:
        second = Worker(m.door, "second")
        m.workers.append(second)
        m.rewiring = Rewiring(m.door, m.workers)
        m.add("c", 2, worker=1)
        with m.running():
            for guest in m.guests.values():
                guest.driver.post(20)
            for k in range(10):
                m.send("a", ethernet(EVERYBODY, A, bytes([k] * 46)))
                m.send("c", ethernet(EVERYBODY, C, bytes([k] * 46)))
            assert len(awaited(m.guests["b"], 20)) == 20


def test_frames_that_wait_for_a_port_that_leaves_are_dropped_counted_and_released() -> None:
    with members("ab") as m:
        m.guests["d"] = d = GuestPort(m.door, "d", Memory.of(2 * MIB), 64, F_VERSION_1 | RING_F_INDIRECT_DESC)
        d.connect()
        for _ in range(14):
            address = d.memory.take(32 * 100)  # in so many pieces that a visit's budget is spent on eight of them
            room = [Piece(address + 100 * i, 100, writable=True) for i in range(32)]
            d.driver.post_chain([d.driver.receiveq.indirect(room)])
        m.bridge.enter(2, d.port)
        m.seat("d", 2, 0)
        m.send("d", ethernet(A, C))
        m.settle()
        a = m.guests["a"]
        a.driver.send_at_once(*[ethernet(C, A, bytes([k]) * 46) for k in range(14)])
        m.workers[0].step()
        got = d.port.counters().tx_frames
        assert 0 < got < 14
        m.remove("d")
        assert m.settle()["b"] == []
        assert a.port.counters().rx_dropped["no_egress"] == 14 - got
        a.driver.wait_sent()
        m.send("a", ethernet(B, A))
        assert m.settle()["b"] == [ethernet(B, A)]


def test_a_number_that_is_taken_or_that_the_switch_has_not_is_refused() -> None:
    with members("ab") as m:
        c = m.guest("c")
        with pytest.raises(ValueError, match="port c: port b has number 1; choose another"):
            m.bridge.enter(1, c.port)
        with pytest.raises(ValueError, match="port c: this switch has room for 5 ports; remove one of them"):
            m.bridge.enter(ROOM, c.port)
        c.close()


def test_where_a_worker_does_not_come_the_port_is_not_there_and_comes_at_the_next_try() -> None:
    with members("ab") as m:
        m.enter("c", 2)
        late = StuckWorker(m.door, "worker0", worker=m.workers[0])
        try:
            late.stick()
            with pytest.raises(WorkerStuckError, match="worker0 does not come to the door"):
                m.seat("c", 2, 0, wait_ms=20)
            late.let_go()
            m.send("a", ethernet(EVERYBODY, A))
            assert awaited(m.guests["b"], 1) == [ethernet(EVERYBODY, A)]
            assert m.guests["c"].driver.receive_all() == []
            m.seat("c", 2, 0)
            m.send("a", ethernet(EVERYBODY, A))
            assert awaited(m.guests["c"], 1) == [ethernet(EVERYBODY, A)]
        finally:
            late.close()
