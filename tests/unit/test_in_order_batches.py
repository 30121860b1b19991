"""With IN_ORDER one used entry stands for a burst of sent frames. Virtio 1.2, sections 2.7.9 and 2.8.8."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest

from tests.driver import Piece
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED, PACKED_DESCRIPTOR
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, Rig, frame, rig

F_IN_ORDER = 1 << 35
SPLIT = F_VERSION_1 | F_IN_ORDER
PACKED = SPLIT | F_RING_PACKED
USED = DESC_F_AVAIL | DESC_F_USED
ELEMENT = struct.Struct("II")


def used_elements(queue: Any) -> list[tuple[int, ...]]:
    """The used ring of a split virtqueue, entry by entry."""
    return [queue.memory.unpack(ELEMENT, queue.device_area + 4 + 8 * n) for n in range(queue.size)]


def descriptors(queue: Any) -> list[tuple[int, ...]]:
    """The ring of a packed virtqueue: addr, len, id, flags each."""
    return [queue.memory.unpack(PACKED_DESCRIPTOR, queue.at(n)) for n in range(queue.size)]


def send(r: Rig, n: int, pieces: int = 1) -> list[int]:
    """Have n frames of so many pieces forwarded in one burst. Returns what the driver calls their buffers."""
    r.b.driver.post(n)
    heads = []
    for k in range(n):
        # Past the test's driver, which takes back what was sent one by one.
        data = bytes(12) + frame(k)
        addr = r.a.memory.take(len(data))
        r.a.memory.write(addr, data)
        cut = [len(data) * i // pieces for i in range(pieces + 1)]
        heads.append(r.a.queues[1].chain([Piece(addr + i, j - i) for i, j in pairwise(cut)]))
    r.a.queues[1].make_available(*heads)
    r.worker.step()
    for k in range(n):
        assert r.b.driver.receive(0, repost=False) == frame(k)
    return heads


def test_a_split_ring_says_only_the_last_head_of_a_burst_at_the_place_of_its_first() -> None:
    with rig(size=8, features=SPLIT) as r:
        queue = r.a.queues[1]
        start = queue.used_index
        before = used_elements(queue)
        heads = send(r, 3)
        after = used_elements(queue)
        assert (queue.used_index - start) & 0xFFFF == 3
        changed = {n: after[n] for n in range(8) if after[n] != before[n]}
        assert changed in ({start % 8: (heads[-1], 0)}, {})
        assert after[start % 8] == (heads[-1], 0)


def test_a_packed_ring_says_only_the_last_id_of_a_burst_at_the_place_of_its_first() -> None:
    with rig(size=7, features=PACKED) as r:
        queue = r.a.queues[1]
        ids = send(r, 5)
        ring = descriptors(queue)
        assert [n for n, d in enumerate(ring) if d[3] & USED == USED] == [0]
        assert ring[0][2] == ids[-1]


@pytest.mark.parametrize(("sizes", "pieces"), [((3, 4, 5), 1), ((7, 7), 1), ((1, 6, 3, 4), 1), ((2, 3, 1, 3), 2)])
def test_the_place_of_the_next_batch_is_behind_the_one_before_over_the_end_of_the_ring(
    sizes: tuple[int, ...], pieces: int
) -> None:
    with rig(size=7, features=PACKED) as r:
        queue = r.a.queues[1]
        at, wrap = 0, True
        for n in sizes:
            ids = send(r, n, pieces)
            _, _, buffer, flags = descriptors(queue)[at]
            assert (buffer, flags & USED) == (ids[-1], USED if wrap else 0)
            # What the driver of this test does not do by itself: skip forward by the size of the batch.
            for ident in ids:
                queue._slots.pop(ident)
                queue._ids.append(ident)
            at += n * pieces
            if at >= 7:
                at, wrap = at - 7, not wrap


@pytest.mark.parametrize("features", [SPLIT, PACKED])
def test_received_frames_are_told_one_by_one_for_their_lengths(features: int) -> None:
    with rig(size=16, features=features | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(3)
        for n in range(3):
            r.a.driver.send(frame(n, 60 + n))
        r.worker.step()
        assert [used.bytes for used in r.b.queues[0].take_used()] == [72, 73, 74]
