"""A bad chain behind good ones ends what is taken of a ring, and stops the ring only where it has become the first.

So nobody has to take a break back: the chains before it are dealt with, or go back, as if it were not there yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.driver import DESC_F_NEXT, Piece
from tests.probes.bench_dataplane import take_chains
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, GuestPort, Rig, frame, rig

SPLIT = F_VERSION_1 | RING_F_INDIRECT_DESC
FORMATS = {
    "split": SPLIT,
    "packed": SPLIT | F_RING_PACKED,
    "split in order": SPLIT | 1 << 35,
    "packed in order": SPLIT | F_RING_PACKED | 1 << 35,
}
BOTH = tuple(FORMATS)
Bad = Callable[[Any, int, bool], int]
"""What makes a bad chain in a queue, from a buffer in memory and the direction that is right; its head."""


def outside(q: Any, _buffer: int, writable: bool) -> int:
    return int(q.chain([Piece(1 << 50, 2048, writable)]))


def second_piece_outside(q: Any, buffer: int, writable: bool) -> int:
    return int(q.chain([Piece(buffer, 12, writable), Piece(1 << 50, 2048, writable)]))


def wrong_direction(q: Any, buffer: int, writable: bool) -> int:
    return int(q.chain([Piece(buffer, 2048, not writable)]))


def table_of_8_bytes(q: Any, buffer: int, _writable: bool) -> int:
    return int(q.chain([Piece(buffer, 8, indirect=True)]))


def table_outside(q: Any, _buffer: int, _writable: bool) -> int:
    return int(q.chain([Piece(1 << 50, 32, indirect=True)]))


def outside_in_a_table(q: Any, buffer: int, writable: bool) -> int:
    return int(q.chain([q.indirect([Piece(buffer, 12, writable), Piece(1 << 50, 2048, writable)])]))


def head_beyond_the_queue(q: Any, _buffer: int, _writable: bool) -> int:
    return int(q.size)


def next_beyond_the_table(q: Any, buffer: int, writable: bool) -> int:
    return link(q, buffer, writable, q.size)


def loop(q: Any, buffer: int, writable: bool) -> int:
    return link(q, buffer, writable, None)


def link(q: Any, buffer: int, writable: bool, after: int | None) -> int:
    """A chain whose only descriptor names this one, or itself, as the next."""
    piece = Piece(buffer, 12, writable)
    head = int(q.chain([piece]))
    q.write_descriptor(head, buffer, 12, piece.flags | DESC_F_NEXT, head if after is None else after)
    return head


BAD: dict[str, tuple[Bad, str, tuple[str, ...]]] = {
    "outside": (outside, "shared memory", BOTH),
    "second piece outside": (second_piece_outside, "shared memory", BOTH),
    "wrong direction": (wrong_direction, "a device-", BOTH),
    "table of 8 bytes": (table_of_8_bytes, "indirect table", BOTH),
    "table outside": (table_outside, "shared memory", BOTH),
    "outside in a table": (outside_in_a_table, "shared memory", BOTH),
    "head beyond the queue": (head_beyond_the_queue, "beyond the queue", ("split", "split in order")),
    "next beyond the table": (next_beyond_the_table, "next field", ("split",)),
    "loop": (loop, "loops", ("split",)),
}
CASES = [(name, ring) for name, (_, _, rings) in BAD.items() for ring in rings]
GOOD = 3
each_way_to_break = pytest.mark.parametrize(("name", "ring"), CASES)
each_format = pytest.mark.parametrize("ring", FORMATS)


def offer_bad(side: GuestPort, index: int, name: str) -> str:
    """Make a bad chain available; words of the sentence that it earns."""
    make, words, _ = BAD[name]
    queue = side.queues[index]
    queue.make_available(make(queue, side.memory.take(4096), index == 0))
    return words


def broken(side: GuestPort, index: int) -> str:
    return side.port.queue_state(index).broken


def used(side: GuestPort, index: int) -> int:
    """How far the device has come in handing chains back, as one number for every format."""
    return side.port.queue_state(index).used_idx


def is_told_once(r: Rig, side: GuestPort, index: int) -> None:
    """Of this queue alone, however long one looks."""
    for _ in range(3):
        r.worker.step()
    assert [event[:2] for event in side.port.events() if event[0] == "broken"] == [("broken", index)]


@each_way_to_break
def test_taking_ends_before_the_bad_chain_and_breaks_the_transmitq_only_where_it_is_first(name: str, ring: str) -> None:
    with rig(features=FORMATS[ring]) as r:
        start = used(r.a, 1)
        r.b.driver.post(2 * GOOD)
        for n in range(GOOD):
            r.a.driver.send(frame(n))
        words = offer_bad(r.a, 1, name)
        r.a.driver.send(frame(GOOD))
        for _ in range(2):
            assert take_chains(r.a.port, 1, 2) == GOOD  # taken and given back as often as one likes
            assert broken(r.a, 1) == ""
        assert r.worker.step() == GOOD
        assert (broken(r.a, 1), r.a.port.counters().rx_dropped["bad_descriptor"]) == ("", 0)
        assert r.worker.step() == 0
        assert words in broken(r.a, 1)
        is_told_once(r, r.a, 1)
        assert r.a.port.counters().rx_dropped["bad_descriptor"] == 1
        assert r.b.driver.receive_all() == [frame(n) for n in range(GOOD)]
        assert used(r.a, 1) == (start + GOOD) & 0xFFFF


@each_way_to_break
def test_taking_ends_before_the_bad_chain_and_breaks_the_receiveq_only_where_it_is_first(name: str, ring: str) -> None:
    with rig(features=FORMATS[ring]) as r:
        start = used(r.a, 1)
        r.b.driver.post(GOOD)
        words = offer_bad(r.b, 0, name)
        r.b.driver.post(1)
        assert take_chains(r.b.port, 0, 2) == GOOD
        assert broken(r.b, 0) == ""
        r.a.driver.send_at_once(*[frame(n) for n in range(GOOD + 2)])
        assert r.worker.step() == GOOD
        assert (broken(r.b, 0), r.b.port.counters().tx_dropped["bad_descriptor"]) == ("", 0)
        assert r.worker.step() == 1  # the frame that met it
        assert words in broken(r.b, 0)
        is_told_once(r, r.b, 0)
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["bad_descriptor"], dropped["ring_disabled"]) == (1, 1)  # each of the other two frames once
        assert r.b.driver.receive_all() == [frame(n) for n in range(GOOD)]
        assert used(r.a, 1) == (start + GOOD + 2) & 0xFFFF


@each_format
def test_the_transmitq_is_not_broken_while_the_frames_before_the_bad_chain_wait_for_buffers(ring: str) -> None:
    with rig(features=FORMATS[ring]) as r:
        r.a.driver.send_at_once(*[frame(n) for n in range(GOOD)])
        offer_bad(r.a, 1, "outside")
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
        offer_bad(r.b, 0, "outside")
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
        offer_bad(r.b, 0, "outside")
        r.a.driver.send_at_once(frame(1), frame(2, 600 * room + 1), frame(3))
        r.settle()
        assert "shared memory" in broken(r.b, 0)
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["bad_descriptor"], dropped["ring_disabled"]) == (1, 1)
        assert r.b.driver.receive_all() == [frame(1)]
