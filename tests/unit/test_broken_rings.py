"""What becomes of the frames round a chain that breaks a rule. Which rules there are: tests/hostile/rules.py."""

from __future__ import annotations

import pytest

from tests.driver import Piece
from tests.unit.rig import frame, rig


def test_frames_before_the_bad_chain_in_the_same_burst_still_arrive() -> None:
    with rig() as r:
        r.b.driver.post(10)
        for n in range(5):
            r.a.driver.send(frame(n))
        r.a.queues[1].make_available(r.a.queues[1].size)
        for n in range(5):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(5)]
        assert len(r.a.queues[1].take_used()) == 5


def test_frames_between_dropped_chains_arrive_before_a_bad_chain_after_them_stops_the_ring() -> None:
    with rig() as r:
        r.b.driver.post(10)
        for data in (b"short", frame(1), b"short", frame(2)):
            r.a.driver.send(data)
        r.a.queues[1].make_available(r.a.queues[1].size)
        for _ in range(6):
            r.worker.step()
        assert r.b.driver.receive_all() == [frame(1), frame(2)]
        assert len(r.a.queues[1].take_used()) == 4
        assert [e[:2] for e in r.a.port.events() if e[0] == "broken"] == [("broken", 1)]
        dropped = r.a.port.counters().rx_dropped
        assert (dropped["runt"], dropped["bad_descriptor"]) == (2, 1)


def test_an_index_that_jumps_stops_the_ring_behind_the_entries_that_were_known_before() -> None:
    with rig() as r:
        r.b.driver.post(128)
        r.a.driver.send_at_once(*[frame(n) for n in range(128)])
        r.worker.step()
        r.a.queues[1].set_avail_index(r.a.queues[1].avail_index + 5000)
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(128)]
        assert "ran ahead" in r.a.port.queue_state(1).broken
        assert len(r.a.queues[1].take_used()) == 128


@pytest.mark.parametrize("room", [0, 1, 2])
def test_frames_of_a_burst_that_meets_a_bad_receive_chain_are_counted_once(room: int) -> None:
    with rig() as r:
        r.b.driver.post(room)
        r.b.driver.post_chain([Piece(1 << 50, 2048, writable=True)])
        r.a.driver.send_at_once(*[frame(n) for n in range(3)])
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(room)]
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["bad_descriptor"], dropped["ring_disabled"]) == (1, 2 - room)


def test_the_same_head_twice_is_delivered_twice_and_harms_nobody() -> None:
    with rig() as r:
        r.b.driver.post(3)
        head = r.a.driver.send(frame(1))
        r.a.queues[1].make_available(head)
        r.settle()
        assert r.b.driver.receive_all() == [frame(1), frame(1)]
        assert [u.head for u in r.a.queues[1].take_used()] == [head, head]
