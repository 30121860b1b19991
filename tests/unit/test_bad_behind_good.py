"""A bad chain behind good ones that wait for buffers, drop, or are merged: it stops its ring when it is the first.

For every rule that a chain may break, where nothing waits: tests/hostile/test_rules.py.
"""

from __future__ import annotations

import pytest

from tests.driver import Piece
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, GuestPort, Rig, frame, rig

SPLIT = F_VERSION_1 | RING_F_INDIRECT_DESC
FORMATS = {
    "split": SPLIT,
    "packed": SPLIT | F_RING_PACKED,
    "split in order": SPLIT | 1 << 35,
    "packed in order": SPLIT | F_RING_PACKED | 1 << 35,
}
GOOD = 3
each_format = pytest.mark.parametrize("ring", FORMATS)


def offer_bad(side: GuestPort, index: int) -> None:
    """Make a chain available whose buffer lies in no memory."""
    queue = side.queues[index]
    queue.make_available(queue.chain([Piece(1 << 50, 2048, writable=index == 0)]))


def broken(side: GuestPort, index: int) -> str:
    return side.port.queue_state(index).broken


def is_told_once(r: Rig, side: GuestPort, index: int) -> None:
    """Of this queue alone, however long one looks."""
    for _ in range(3):
        r.worker.step()
    assert [event[:2] for event in side.port.events() if event[0] == "broken"] == [("broken", index)]


@each_format
def test_the_transmitq_is_not_broken_while_the_frames_before_the_bad_chain_wait_for_buffers(ring: str) -> None:
    with rig(features=FORMATS[ring]) as r:
        r.a.driver.send_at_once(*[frame(n) for n in range(GOOD)])
        offer_bad(r.a, 1)
        for _ in range(5):
            r.worker.step()
        assert broken(r.a, 1) == ""
        r.b.driver.post(GOOD)
        is_told_once(r, r.a, 1)
        assert r.b.driver.receive_all() == [frame(n) for n in range(GOOD)]


@each_format
def test_where_frames_do_not_wait_those_behind_the_good_buffers_drop_and_the_next_one_meets_the_bad_chain(
    ring: str,
) -> None:
    with rig(features=FORMATS[ring], hold=False) as r:
        r.b.driver.post(GOOD)
        offer_bad(r.b, 0)
        r.a.driver.send_at_once(*[frame(n) for n in range(GOOD + 2)])
        r.settle()
        assert broken(r.b, 0) == ""
        r.a.driver.send(frame(9))
        r.settle()
        assert "shared memory" in broken(r.b, 0)
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["no_receive_buffers"], dropped["bad_descriptor"], dropped["ring_disabled"]) == (2, 1, 0)


@each_format
@pytest.mark.parametrize("room", [1, 2])
def test_a_frame_that_wants_more_mergeable_buffers_than_there_are_good_ones_meets_the_bad_chain(
    room: int, ring: str
) -> None:
    with rig(features=FORMATS[ring] | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(1 + room, bytes=600)
        offer_bad(r.b, 0)
        r.a.driver.send_at_once(frame(1), frame(2, 600 * room + 1), frame(3))
        r.settle()
        assert "shared memory" in broken(r.b, 0)
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["bad_descriptor"], dropped["ring_disabled"]) == (1, 1)
        assert r.b.driver.receive_all() == [frame(1)]
