"""What a port sends gets another worker while all of them run: nothing is lost, and nothing overtakes."""

from __future__ import annotations

import pytest

from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.rewiring import Rewiring
from tests.unit.test_backlog import LONG_MS, know, numbered, ring_formats, taken
from tests.unit.test_learn import ethernet, hub, mac
from tests.unit.test_rewiring import awaited, frames, got, runs_and_sticks, send, yard


def test_frames_in_hand_go_on_with_the_worker_that_has_their_wire_now() -> None:
    with yard("abcd", "a:b b:a c:d d:c", workers=2) as y:
        first, second = y.workers
        y.guests["b"].driver.post(3)
        send(y.guests["a"], range(10))
        y.settle()
        assert y.rewiring.move(y.wires["a"], [second])
        y.guests["b"].driver.post(20)
        first.step()
        assert first.waiting == 0
        send(y.guests["a"], range(10, 15))
        second.step()
        y.settle()
        assert got(y.guests["b"]) == frames(range(15))
        assert (first.lanes, second.lanes) == (1, 3)
        assert [wire for wire, _, _ in second.loads] == [y.wires["b"], y.wires["d"], y.wires["a"]]


def test_a_wire_goes_to_and_fro_under_traffic() -> None:
    with yard("abcd", "a:b b:a c:d d:c", workers=2) as y, y.running():
        for guest in y.guests.values():
            guest.driver.post(40)
        for turn in range(100):
            numbers = range(20 * turn, 20 * turn + 20)
            send(y.guests["a"], numbers[:10])
            send(y.guests["c"], numbers[:10])
            assert y.rewiring.move(y.wires["a"], [y.workers[turn % 2 ^ 1]])
            send(y.guests["a"], numbers[10:])
            assert awaited(y.guests["b"], 20) == frames(numbers)
            assert awaited(y.guests["d"], 10) == frames(numbers[:10])


@ring_formats
def test_a_port_of_a_switch_keeps_its_worker_while_frames_wait_in_a_backlog(ring: int) -> None:
    with hub(3, ring | 1 << 32, workers=2, posted=0, hold_ms=LONG_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 1, 2)
        sent = [numbered(1, n) for n in range(40)]
        h.guests[0].driver.send_at_once(*sent[:20])
        h.settle()
        assert not rewiring.move(h.wires[0], [h.workers[1]])
        assert h.workers[0].lanes == 2
        h.guests[1].driver.post(20)
        h.settle()
        assert rewiring.move(h.wires[0], [h.workers[1]])
        h.settle()
        assert (h.workers[0].lanes, h.workers[1].lanes) == (1, 2)
        h.guests[1].driver.post(20)
        h.guests[0].driver.send_at_once(*sent[20:])
        h.workers[0].step()
        assert len(taken(h, 1)) == 20
        h.settle()
        assert taken(h, 1) == sent[20:]


def test_frames_in_the_backlog_of_another_worker_are_in_nobody_s_way() -> None:
    with hub(3, 1 << 32, workers=2, posted=0, hold_ms=LONG_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 0, 1, 2)
        h.guests[1].driver.send(ethernet(mac(2), mac(1)))
        h.settle()
        assert (h.workers[0].waiting, h.workers[1].waiting) == (0, 1)
        assert rewiring.move(h.wires[0], [h.workers[1]])
        assert not rewiring.move(h.wires[1], [h.workers[0]])


def test_a_worker_s_loads_are_its_visits_that_moved_frames() -> None:
    with yard("ab", "a:b b:a") as y:
        y.settle()
        assert [seconds for _, _, seconds in y.workers[0].loads] == [0, 0]
        y.guests["b"].driver.post(20)
        send(y.guests["a"], range(10))
        y.settle()
        (_, _, of_a), (wire, share, of_b) = y.workers[0].loads
        assert 0 < of_a < 1
        assert (wire, share, of_b) == (y.wires["b"], 0, 0)


def test_while_a_worker_does_not_come_nothing_is_moved() -> None:
    with yard("abcd", "a:b b:a c:d d:c", workers=2) as y, runs_and_sticks(y) as late:
        late.stick()
        with pytest.raises(WorkerStuckError):
            y.rewiring.move(y.wires["a"], [y.workers[1]], wait_ms=50)
        late.let_go()
        assert [wire for wire, _, _ in y.workers[0].loads][:2] == [y.wires["a"], y.wires["c"]]
        assert y.rewiring.move(y.wires["a"], [y.workers[1]])
