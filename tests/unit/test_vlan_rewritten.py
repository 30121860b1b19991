"""A header that is rewritten in guest memory after it was looked at: no frame changes its VLAN, whoever rewrites it.

Two guests have one memory. A flood is delivered to one of them first, whose receive buffer lies so that its copy
writes another header over the frame in the sender's memory; the guests behind it get the frame after that. Nothing
here depends on time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from fastvhost.backend.features import NET_F_CSUM, NET_F_GUEST_CSUM, mask
from tests.driver import NET_HEADER, Piece
from tests.segmenter import NEEDS_CSUM
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC
from tests.unit.vlan_hub import EVERYBODY, TPID, Keys, VlanHub, access, mac, tag, trunk, vlan_hub

PLAIN = F_VERSION_1 | RING_F_INDIRECT_DESC
FORMATS = {"split": PLAIN, "packed": PLAIN | F_RING_PACKED}
NET_BYTES = 12
LENGTH = 64
"""Bytes of what the accomplice gets; the last ones are the new header."""
OTHER_ADDRESSES = mac(0x66) + mac(0x67)
SUMS = mask(NET_F_CSUM, NET_F_GUEST_CSUM)
CUTS = {"one-piece": (), "net-header-alone": (12,), "in-the-tag": (5, 25, 27), "bytes": (*range(12, 36),)}


def send_and_rewrite(h: VlanHub, tags: bytes, hidden: bytes, cuts: Sequence[int], header: bytes) -> bytes:
    """Send a frame to all. By the time the accomplice has it, it begins with `hidden` where it was read. Returns it."""
    driver = h.guests[0].driver
    frame = EVERYBODY + mac(0) + tags + b"\x88\xb5"
    frame = frame.ljust(LENGTH + len(tags) - len(hidden), b"p") + hidden
    at = driver.memory.take(4096) + 1024
    data = header + frame
    driver.memory.write(at - NET_BYTES, data)
    room = at - (LENGTH - len(hidden)) - NET_BYTES
    h.guests[1].driver.post_chain([Piece(room, LENGTH + NET_BYTES, writable=True)])
    edges = [0, *cuts, len(data)]
    pieces = [Piece(at - NET_BYTES + begin, end - begin) for begin, end in pairwise(edges)]
    driver.transmitq.make_available(driver.transmitq.chain(pieces))
    h.settle()
    assert driver.memory.read(at, len(hidden)) == hidden
    return frame


@pytest.mark.parametrize("ring", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("buffers", [2048, 30])
@pytest.mark.parametrize("asks", [False, True], ids=["plain", "checksum"])
@pytest.mark.parametrize(
    ("sender", "tags"),
    [(trunk(10, 20), tag(10)), (access(10), b""), (access(10), tag(0, 6)), (trunk(10), tag(10, 6))],
    ids=["trunk", "access", "priority", "trunk-priority"],
)
def test_a_rewritten_header_never_crosses_a_vlan(
    ring: int, cuts: tuple[int, ...], buffers: int, asks: bool, sender: Keys, tags: bytes
) -> None:
    features = ring | NET_F_MRG_RXBUF | (SUMS if asks else 0)
    ports = (sender, access(10), access(10), trunk(10, 20), trunk(20, 10, native=10), access(20), trunk(20))
    header = NET_HEADER.pack(NEEDS_CSUM if asks else 0, 0, 0, 0, *((40, 6) if asks else (0, 0)), 0)
    each = [features] * len(ports)
    each[2] &= ~mask(NET_F_GUEST_CSUM)  # where the checksum is filled in on the way
    for hidden in (OTHER_ADDRESSES + tag(20) + b"\x08\0", OTHER_ADDRESSES + TPID * 2 + tag(20)[2:]):
        with vlan_hub(*ports, features=each, buffers=buffers, accomplice=1) as h:
            send_and_rewrite(h, tags, hidden, cuts, header)
            bare = EVERYBODY + mac(0) + b"\x88\xb5"
            tagged = EVERYBODY + mac(0) + tag(10, 6 if tags[2:] in (tag(0, 6)[2:], tag(10, 6)[2:]) else 0)
            for port, begins in ((2, bare), (3, tagged), (4, bare)):
                (got,) = h.arrived(port)
                assert got[: len(begins)] == begins
                assert len(got) == LENGTH + (4 if port == 3 else 0)
            assert h.arrived(5) == h.arrived(6) == []


@pytest.mark.parametrize("ring", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
def test_what_follows_a_pushed_tag_is_what_was_read_as_well(ring: int, cuts: tuple[int, ...]) -> None:
    with vlan_hub(access(10), access(10), trunk(10), features=ring, accomplice=1) as h:
        send_and_rewrite(h, b"", OTHER_ADDRESSES + TPID * 2, cuts, bytes(NET_BYTES))
        (got,) = h.arrived(2)
        assert got[:18] == EVERYBODY + mac(0) + tag(10) + b"\x88\xb5"
