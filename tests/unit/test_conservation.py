"""The check that frames received equal frames sent, dropped and waiting; and that it finds a count that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from bench import conservation
from tests.unit.rig import Rig, frame, rig


def test_frames_that_wait_for_room_are_neither_delivered_nor_dropped() -> None:
    with rig() as r:
        r.b.driver.post(3)
        r.a.driver.send_at_once(*map(frame, range(10)))
        r.worker.step()
        assert r.worker.waiting == 7
        conservation.check(r.worker, r.a.port, r.b.port)
        r.b.driver.post(7)
        r.settle()
        assert r.worker.waiting == 0


class Lying:
    """A port whose counters are off by one frame, in a field of theirs."""

    def __init__(self, r: Rig, field: str) -> None:
        self.counted = r.a.port.counters()
        value = getattr(self.counted, field)
        if isinstance(value, int):
            setattr(self.counted, field, value + 1)
        else:
            value["no_egress" if field == "rx_dropped" else "oversize"] += 1

    def counters(self) -> Any:
        return self.counted


@pytest.mark.parametrize("field", ["rx_frames", "tx_frames", "cut", "segmented", "copies", "rx_dropped", "tx_dropped"])
def test_one_frame_too_many_is_found_wherever_it_is_counted(field: str) -> None:
    with rig() as r:
        r.b.driver.post(10)
        r.a.driver.send_at_once(*map(frame, range(10)))
        r.settle()
        with pytest.raises(AssertionError, match="frames came in"):
            conservation.check(r.worker, Lying(r, field), r.b.port)


def answers(*received: int, rounds: Iterable[int] = range(0, 10**6, 10)) -> Any:
    """Statistics of a forwarder whose port a received so many frames at each look, and delivered ten."""
    dropped: Mapping[str, int] = {"no_egress": 0, "runt": 3}
    found, gone_round = iter(received), iter(rounds)

    def ask() -> Mapping[str, Any]:
        port = {"rx_frames": next(found), "tx_frames": 54, "rx_dropped": dropped, "tx_dropped": {"oversize": 1}}
        port |= {"copies": 0, "cut": 1, "segmented": 45}  # of the frames delivered, 45 were one
        return {"ports": {"a": port}, "workers": {"worker0": {"waiting": 2, "rounds": next(gone_round)}}}

    return ask


def test_a_forwarder_is_asked_until_nothing_moves_any_more() -> None:
    conservation.check_stats(answers(11, 12, 13, 13))
    with pytest.raises(AssertionError, match="14 frames came in; 10 were delivered, 1 dropped, 2 wait"):
        conservation.check_stats(answers(13, 14, 14))


def test_a_worker_that_has_not_gone_round_between_two_answers_may_hold_frames_that_it_counted_once() -> None:
    assert conservation.check_stats(answers(12, 12, 12, 13, 13, 13, rounds=(7, 7, 8, 9, 10, 11)))


def test_a_forwarder_under_traffic_is_not_counted() -> None:
    conservation.check_stats(answers(*range(100, 1000)), seconds=0.1)
