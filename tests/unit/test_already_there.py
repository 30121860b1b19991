"""Values that are in guest memory already are not written again; a value that differs in one byte is."""

from __future__ import annotations

import pytest

from tests.driver import Piece
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, Rig, frame, rig

LINE = 64
PLAIN = bytes(10) + b"\1\0"
"""A header without offloads, in one buffer (virtio 1.2, section 5.1.6.4)."""
FORMATS = pytest.mark.parametrize("ring", [0, F_RING_PACKED], ids=["split", "packed"])


def room(r: Rig, header_bytes: int, found: bytes, *, off: int = 0) -> None:
    """Post a buffer whose header ends with a cache line, or so many bytes off it, with these bytes in its place."""
    addr = r.b.memory.take(4 * LINE, align=LINE) + LINE - header_bytes + off
    r.b.memory.write(addr, found[:header_bytes])
    r.b.driver.post_chain([Piece(addr, 128, writable=True)])


def header_after(r: Rig) -> bytes:
    r.a.driver.send(frame(1))
    assert r.settle() == 1
    assert r.b.driver.receive(repost=False) == frame(1)
    return r.b.driver.received_header


@FORMATS
@pytest.mark.parametrize("off", [0, 2])
@pytest.mark.parametrize("mergeable", [0, NET_F_MRG_RXBUF], ids=["", "mergeable"])
def test_a_header_says_plain_frame_whatever_stood_there(ring: int, mergeable: int, off: int) -> None:
    with rig(features=F_VERSION_1 | mergeable | ring) as r:
        for at in range(12):
            found = bytearray(PLAIN)
            found[at] ^= 0xFF
            room(r, 12, found, off=off)
            assert header_after(r) == PLAIN
        room(r, 12, PLAIN, off=off)
        assert header_after(r) == PLAIN


def test_a_legacy_header_says_plain_frame_whatever_stood_there() -> None:
    with rig(features=0) as r:
        for at in range(10):
            found = bytearray(10)
            found[at] = 1
            room(r, 10, found)
            assert header_after(r) == bytes(10)


def test_a_header_of_zeros_is_no_plain_one() -> None:
    """num_buffers would be 0."""
    with rig(features=F_VERSION_1) as r:
        room(r, 12, bytes(12))
        assert header_after(r) == PLAIN


@pytest.mark.parametrize("lengths", [(60, 60, 60, 60), (60, 61, 60, 60), (90, 60, 60, 61)])
def test_used_elements_are_those_of_this_lap(lengths: tuple[int, ...]) -> None:
    """Chains of the same places in each lap, for frames of one length or another; and in another order."""
    with rig(size=4) as r:
        addresses = [r.b.memory.take(2048) for _ in range(4)]
        heads = list(range(4))
        for head in heads:
            r.b.queues[0].write_descriptor(head, addresses[head], 2048, 2)
        for lap in range(6):
            order = heads if lap < 4 else heads[::-1]
            r.b.queues[0].make_available(*order)
            sent = [frame(lap + n, lengths[(lap + n) % 4]) for n in range(4)]
            for each in sent:
                r.a.driver.send(each)
            assert r.settle() == 4
            used = r.b.queues[0].take_used()
            assert [(each.head, each.bytes) for each in used] == [
                (head, 12 + len(each)) for head, each in zip(order, sent, strict=True)
            ]
            for head, each in zip(order, sent, strict=True):
                assert r.b.memory.read(addresses[head], 12 + len(each)) == PLAIN + each
            r.a.driver.reclaim()


@pytest.mark.parametrize("before", range(8))
def test_used_elements_of_a_burst_go_on_at_the_start_of_the_ring(before: int) -> None:
    with rig(size=8) as r:
        r.b.driver.post(8)
        for n in (before, 5, 6, 8):
            heads = [r.a.driver.send(frame(number)) for number in range(n)]
            r.settle()
            assert [used.head for used in r.a.queues[1].take_used()] == heads
            assert r.b.driver.receive_all() == [frame(number) for number in range(n)]
