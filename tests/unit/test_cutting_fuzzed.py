"""Whatever a super-frame is and however it lies, its receiver gets the bytes that an independent segmenter makes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastvhost.backend.features import NET_F_GUEST_CSUM, OFFLOADS, mask
from tests.driver import NET_HEADER, Piece, Used
from tests.segmenter import ACK, CWR, FIN, PSH, TAGS, TCP, UDP, SuperFrame, extensions, finished
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, Rig, rig

FEATURES = F_VERSION_1 | RING_F_INDIRECT_DESC
RECEIVERS = {"nothing": 0, "checksums": mask(NET_F_GUEST_CSUM), "all": OFFLOADS}
MOST_ROUNDS = 5000
MARK = b"\xa5"
"""What a receive buffer is filled with."""


@st.composite
def super_frames(draw: st.DrawFn) -> SuperFrame:
    udp, ipv6 = draw(st.booleans()), draw(st.booleans())
    if ipv6:
        lengths = draw(st.lists(st.integers(1, 3), max_size=3))
        extra = extensions(*lengths, protocol=UDP if udp else TCP)
    else:
        extra = bytes([1]) * (4 * draw(st.integers(0, 10)))
    size = draw(st.integers(64, 1500))
    length = draw(st.one_of(st.integers(0, 3 * size), st.integers(0, 6000)))
    return SuperFrame(
        random.Random(draw(st.integers(0, 1 << 32))).randbytes(length),
        size,
        udp=udp,
        ipv6=ipv6,
        tags=draw(st.sampled_from(TAGS)),
        extra=extra,
        options=bytes([1]) * (4 * draw(st.integers(0, 10))),
        flags=ACK | draw(st.sampled_from([0, FIN, PSH, CWR, FIN | PSH | CWR])),
        sequence=draw(st.integers(0, 0xFFFFFFFF)),
        number=draw(st.integers(0, 0xFFFF)),
        accurate_ecn=draw(st.booleans()),
    )


def lay(r: Rig, data: bytes, cuts: list[int]) -> list[Piece]:
    """Data cut at these places, each piece at an address of its own."""
    edges = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    memory, pieces = r.a.memory, []
    for start, stop in pairwise(edges):
        addr = memory.take(stop - start + 3) + start % 3
        memory.write(addr, data[start:stop])
        pieces.append(Piece(addr, stop - start))
    return pieces


class Receiver:
    """Receive chains, each in an indirect table, which are offered again as soon as they were used."""

    def __init__(self, r: Rig, chains: list[list[int]]) -> None:
        self.memory, self.queue = r.b.memory, r.b.queues[0]
        self.rows: dict[int, tuple[list[Piece], Piece]] = {}
        for sizes in chains:
            rows = [Piece(self.memory.take(n + 5), n, writable=True) for n in sizes]
            for row in rows:
                self.memory.write(row.addr, MARK * row.bytes)
            self.post(rows, self.queue.indirect(rows))

    def post(self, rows: list[Piece], table: Piece) -> None:
        head = self.queue.chain([table])
        self.rows[head] = rows, table
        self.queue.make_available(head)

    def frames(self) -> Iterator[bytes]:
        """Those that are there, as a guest finishes them; no byte behind a frame's end was written."""
        used = iter(self.queue.take_used())
        for first in used:
            data = self.take(first)
            header = NET_HEADER.unpack(data[:12])
            for _ in range(header[6] - 1):
                data += self.take(next(used))
            yield finished(data[12:], header)

    def take(self, used: Used) -> bytes:
        rows, table = self.rows.pop(used.head)
        data = b"".join(self.memory.read(row.addr, row.bytes) for row in rows)
        assert data[used.bytes :] == MARK * (len(data) - used.bytes)
        for row in rows:
            self.memory.write(row.addr, MARK * row.bytes)
        self.post(rows, table)
        return data[: used.bytes]


def exchange(sent: list[SuperFrame], cuts: list[int], chains: list[list[int]], takes: int, ring: int) -> list[bytes]:
    """What arrives of frames one behind the other."""
    with rig(features=FEATURES | OFFLOADS | ring, b_features=FEATURES | takes | ring) as r:
        receiver = Receiver(r, chains)
        for one in sent:
            table = r.a.queues[1].indirect(lay(r, NET_HEADER.pack(*one.asks, 0) + one.frame, cuts))
            r.a.queues[1].make_available(r.a.queues[1].chain([table]))
        got: list[bytes] = []
        for _ in range(MOST_ROUNDS):
            moved = r.worker.step()
            found = list(receiver.frames())
            got += found
            if not (moved or found or r.worker.waiting):
                return got
    raise AssertionError("it is never delivered")


def rooms(total: int, cuts: list[int]) -> list[int]:
    """A receive chain of so many bytes, cut at these places."""
    edges = [0, *sorted({cut % total for cut in cuts} - {0}), total]
    return [stop - start for start, stop in pairwise(edges)]


CUTS = st.lists(st.integers(0, 7000), max_size=12)


@pytest.mark.parametrize("ring", [0, F_RING_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("takes", RECEIVERS.values(), ids=RECEIVERS.keys())
@given(
    sent=st.lists(super_frames(), min_size=1, max_size=2),
    cuts=CUTS,
    room_cuts=CUTS,
    mergeable=st.integers(0, 600),
    spare=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_arrives_is_what_another_segmenter_makes(
    takes: int, ring: int, sent: list[SuperFrame], cuts: list[int], room_cuts: list[int], mergeable: int, spare: int
) -> None:
    """From any cut of the sender's chain into any cut of the receiver's, often with room for a piece or two only."""
    whole = takes == OFFLOADS
    expected = [frame for one in sent for frame in ([finished(one.frame, one.asks)] if whole else one.pieces)]
    longest = 12 + max(map(len, expected))
    if mergeable < 64:
        chains = [rooms(longest, room_cuts)] * (1 + spare)
    else:
        takes |= NET_F_MRG_RXBUF
        chains = [rooms(mergeable, room_cuts)] * (-(-longest // mergeable) + spare)
    assert exchange(sent, cuts, chains, takes, ring) == expected
