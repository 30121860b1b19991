"""Addresses of a ring: each part aligned, and within shared memory to its last byte. Virtio 1.2, 2.7 and 2.8.10."""

from __future__ import annotations

import pytest

from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.ring_refusal import RingRefusedError
from tests.driver import Memory
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, RING_F_EVENT_IDX, Rig, rig

FORMATS = {
    "split": F_VERSION_1,
    "split, event idx": F_VERSION_1 | RING_F_EVENT_IDX,
    "packed": F_VERSION_1 | F_RING_PACKED,
}
EACH_FORMAT = pytest.mark.parametrize("features", FORMATS.values(), ids=FORMATS)
SIZE, TRANSMITQ = 8, 1
PARTS = ("desc", "avail", "used")


def alignment(features: int) -> dict[str, int]:
    return dict(zip(PARTS, (16, 4, 4) if features & F_RING_PACKED else (16, 2, 4), strict=True))


def length(features: int) -> dict[str, int]:
    if features & F_RING_PACKED:
        return dict(zip(PARTS, (16 * SIZE, 4, 4), strict=True))
    event = 2 if features & RING_F_EVENT_IDX else 0
    return dict(zip(PARTS, (16 * SIZE, 4 + 2 * SIZE + event, 4 + 8 * SIZE + event), strict=True))


def start(r: Rig, **places: int) -> None:
    """The transmitq anew, with these guest addresses and else the middle of its memory."""
    middle = {part: 0x10000 + MIB // 2 + 0x1000 * number for number, part in enumerate(PARTS)} | places
    region = r.a.memory.regions[0]
    r.a.port.stop_queue(TRANSMITQ)
    addresses = {f"{part}_user_addr": place - region.guest_addr + region.user_addr for part, place in middle.items()}
    r.a.port.start_queue(TRANSMITQ, QueueSetup(SIZE, **addresses, base=0))


@EACH_FORMAT
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_misaligned_is_refused_with_the_rule(features: int, part: str) -> None:
    with rig(features=features, memory=Memory.of(MIB)) as r:
        step = alignment(features)[part]
        start(r, **{part: 0x40000 + step})
        with pytest.raises(RingRefusedError, match=r"misaligned: .* at multiples of 16"):
            start(r, **{part: 0x40000 + step // 2})


@EACH_FORMAT
@pytest.mark.parametrize("part", PARTS)
def test_a_part_may_end_where_memory_ends_and_not_a_step_behind(features: int, part: str) -> None:
    with rig(features=features, memory=Memory.of(MIB)) as r:
        step, bytes = alignment(features)[part], length(features)[part]
        last = (0x10000 + MIB - bytes) // step * step
        start(r, **{part: last})
        with pytest.raises(RingRefusedError, match="lies in no shared memory region"):
            start(r, **{part: last + step})
