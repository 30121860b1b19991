"""Headers that lie about what is to be done to a frame are counted drops; those that are odd, and true, are not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fastvhost.backend.features import (
    NET_F_CSUM,
    NET_F_GUEST_CSUM,
    NET_F_GUEST_TSO4,
    NET_F_GUEST_USO4,
    NET_F_GUEST_USO6,
    NET_F_HOST_ECN,
    NET_F_HOST_TSO4,
    NET_F_HOST_TSO6,
    NET_F_HOST_USO,
    OFFLOADS,
    mask,
)
from tests.driver import NET_HEADER, Piece
from tests.malformed_offloads import HEADERS, LIES, TCP4, TCP6, UDP4, Malformed
from tests.probes.offloads import cut
from tests.segmenter import CWR, NEEDS_CSUM, TCP, SuperFrame, extensions, finished
from tests.unit.rig import F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, rig

FEATURES = F_VERSION_1 | RING_F_INDIRECT_DESC


GOOD = TCP4.part(0, b"good", 0, whole=True)


@pytest.mark.parametrize("b_features", [0, OFFLOADS], ids=["nothing", "everything"])
@pytest.mark.parametrize("pieces", [1, 12], ids=["one piece", "single bytes"])
@pytest.mark.parametrize("bad", [*HEADERS.values(), *LIES.values()], ids=[*HEADERS.keys(), *LIES.keys()])
def test_it_is_a_counted_drop_and_what_is_behind_it_arrives(bad: Malformed, pieces: int, b_features: int) -> None:
    """Two drops for two of them, two frames for two; what only a cutter looks at passes where nothing is cut."""
    passes = bool(b_features) and bad in LIES.values()
    with rig(features=FEATURES | OFFLOADS, b_features=FEATURES | b_features | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(128)
        data = NET_HEADER.pack(*bad.asks, 0) + bad.frame
        for _ in range(2):
            at = r.a.memory.take(len(data))
            r.a.memory.write(at, data)
            edges = [*range(at, at + pieces), at + len(data)]
            rows = [Piece(start, stop - start) for start, stop in pairwise(edges)]
            r.a.queues[1].make_available(r.a.queues[1].chain(rows))
            r.a.driver.send(GOOD)
        r.settle()
        counted = [r.a.port.counters().rx_dropped["gso_unsupported"], r.b.port.counters().tx_dropped["gso_unsupported"]]
        assert counted == ([0, 0] if passes else [0, 2] if bad in LIES.values() else [2, 0])
        got = r.b.driver.receive_all()
        assert got == ([bad.frame, GOOD] * 2 if passes else [GOOD] * 2)
        assert len(r.a.queues[1].take_used()) == 4


@pytest.mark.parametrize("features", [0, mask(NET_F_CSUM), OFFLOADS & ~mask(NET_F_HOST_ECN)])
def test_ecn_that_was_not_negotiated_is_a_counted_drop(features: int) -> None:
    assert drops(TCP4._replace(flags=CWR), features) == 1


@pytest.mark.parametrize(
    ("one", "bit"),
    [(TCP4, NET_F_HOST_TSO4), (TCP6, NET_F_HOST_TSO6), (UDP4, NET_F_HOST_USO)],
    ids=["TSO4", "TSO6", "USO"],
)
def test_what_one_feature_allows_no_other_one_does(one: SuperFrame, bit: int) -> None:
    assert drops(one, OFFLOADS & ~mask(bit)) == 1
    assert drops(one, mask(NET_F_CSUM, bit)) == 0
    assert drops(one, mask(bit)) == 1  # without CSUM it is worth nothing (section 5.1.3.1)


def test_super_frames_are_cut_for_a_receiver_that_takes_them_but_no_unfinished_checksums() -> None:
    """No driver may ask for that (section 5.1.3.1)."""
    with rig(features=FEATURES | OFFLOADS, b_features=FEATURES | mask(NET_F_GUEST_TSO4)) as r:
        r.b.driver.post(16, bytes=5000)
        r.a.driver.send(TCP4.frame, NET_HEADER.pack(*TCP4.asks, 0))
        r.settle()
        assert r.b.driver.receive_all() == list(TCP4.pieces)


@pytest.mark.parametrize("bit", [NET_F_GUEST_USO4, NET_F_GUEST_USO6])
def test_datagrams_are_cut_for_a_receiver_that_takes_those_of_one_version_of_ip_only(bit: int) -> None:
    """The header does not say which version it is (section 5.1.6.2)."""
    with rig(features=FEATURES | OFFLOADS, b_features=FEATURES | mask(NET_F_GUEST_CSUM, bit)) as r:
        r.b.driver.post(16, bytes=5000)
        r.a.driver.send(UDP4.frame, NET_HEADER.pack(*UDP4.asks, 0))
        r.settle()
        assert len(r.b.driver.receive_all()) == len(list(UDP4.pieces)) > 1  # their checksums are left to it


def drops(one: SuperFrame, features: int) -> int:
    """Of this frame, from a driver with these features."""
    with rig(features=FEATURES | features, b_features=FEATURES) as r:
        r.b.driver.post(16)
        r.a.driver.send(one.frame, NET_HEADER.pack(*one.asks, 0))
        r.settle()
        dropped = r.a.port.counters().rx_dropped["gso_unsupported"]
        assert len(r.b.driver.receive_all()) == (0 if dropped else 4)
        return dropped


# Odd, and true


@pytest.mark.parametrize(
    "one",
    [
        TCP4._replace(size=64, payload=bytes(65_481)),
        TCP4._replace(size=0xFFFF),
        TCP4._replace(payload=b""),
        TCP4._replace(payload=b"x"),
        TCP4._replace(extra=bytes([1]) * 40, options=bytes([1]) * 40),
        TCP6._replace(extra=extensions(*[1] * 16, protocol=TCP)),
        UDP4._replace(payload=b""),
        TCP4._replace(flags=CWR, accurate_ecn=True),
    ],
    ids=[
        "64 bytes", "65535 bytes", "no payload", "a byte", "all options", "16 extension headers", "an empty datagram",
        "accurate ECN",
    ],
)
def test_odd_but_legal_super_frames_are_cut(one: SuperFrame) -> None:
    _, gso_type, _, size, start, offset = one.asks
    assert cut(one.frame, gso_type, size, start, offset) == list(one.pieces)


@pytest.mark.parametrize("pieces", [1, 2])
def test_what_a_receiver_has_no_use_for_is_not_passed_on(pieces: int) -> None:
    """Other flags, num_buffers, a hdr_len that cannot be, and the places of a checksum that nobody asked for."""
    with rig(features=FEATURES | OFFLOADS) as r:
        r.b.driver.post(4)
        frame = TCP4.part(0, b"payload", 0, whole=False)
        (piece,) = r.a.driver.offer(frame, NET_HEADER.pack(0xFF, 0, 0xFFFF, 9, 34, 16, 0xFFFF))
        rows = [piece._replace(bytes=50), piece._replace(addr=piece.addr + 50, bytes=piece.bytes - 50)]
        r.a.queues[1].make_available(r.a.queues[1].chain([piece] if pieces == 1 else rows))
        r.settle()
        assert r.b.driver.receive(0) == frame
        assert NET_HEADER.unpack(r.b.driver.received_header) == (NEEDS_CSUM, 0, 0, 0, 34, 16, 1)


@pytest.mark.parametrize("buffer", [12 + 49, 12 + 50, 12 + 51, 12 + 52])
@pytest.mark.parametrize("piece", [49, 50, 51, 52, 53])
def test_a_checksum_field_may_lie_in_two_pieces_and_two_buffers(piece: int, buffer: int) -> None:
    """It begins at byte 50 of the frame."""
    one = TCP4._replace(payload=bytes(range(101)))
    with rig(features=FEATURES | OFFLOADS, b_features=FEATURES | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(16, bytes=buffer)
        data = NET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 16, 0) + one.frame
        rows = r.a.driver.offer(data[12:], data[:12])
        at, total = rows[0].addr, rows[0].bytes
        cuts = [rows[0]._replace(bytes=12 + piece), rows[0]._replace(addr=at + 12 + piece, bytes=total - 12 - piece)]
        r.a.queues[1].make_available(r.a.queues[1].chain(cuts))
        r.settle()
        assert [r.b.driver.receive(0)] == list(one.pieces)


@pytest.mark.parametrize("cut_at", [None, 50], ids=["one piece", "two pieces"])
def test_a_datagram_whose_sum_comes_out_as_none_says_so_in_the_other_way_to_a_guest(cut_at: int | None) -> None:
    """RFC 768: a checksum of 0 means that there is none."""
    with rig(features=FEATURES | OFFLOADS, b_features=FEATURES) as r:
        r.b.driver.post(4)
        empty = UDP4._replace(payload=bytes(2))
        (sum_of_zeros,) = (int.from_bytes(piece[40:42], "big") for piece in empty.pieces)
        one = empty._replace(payload=sum_of_zeros.to_bytes(2, "big"))
        assert [piece[40:42] for piece in one.pieces] == [b"\xff\xff"]
        (piece,) = r.a.driver.offer(one.frame, NET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 6, 0))
        edges = [0, piece.bytes] if cut_at is None else [0, cut_at, piece.bytes]
        rows = [Piece(piece.addr + start, stop - start) for start, stop in pairwise(edges)]
        r.a.queues[1].make_available(r.a.queues[1].chain(rows))
        r.settle()
        assert [r.b.driver.receive(0)] == list(one.pieces)


@pytest.mark.parametrize(
    "bad", [b"", NET_HEADER.pack(*HEADERS["gso_size_0"].asks, 0) + TCP4.frame], ids=["a runt", "a header that lies"]
)
def test_frames_behind_one_that_is_none_have_heads_of_their_own(bad: bytes) -> None:
    """They are taken twice: what was read of them the first time is forgotten."""
    tcp, udp = TCP4._replace(payload=b"first"), UDP4._replace(payload=b"second")
    with rig(features=FEATURES | OFFLOADS) as r:
        r.b.driver.post(8)
        heads = []
        good = [NET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, one.offset, 0) + one.frame for one in (tcp, udp)]
        for data in (bad or bytes(20), *good):
            (piece,) = r.a.driver.offer(data, b"")
            heads.append(r.a.queues[1].chain([piece]))
        r.a.queues[1].make_available(*heads)
        r.settle()
        for one in (tcp, udp):
            assert r.b.driver.receive(0) == one.frame
            assert NET_HEADER.unpack(r.b.driver.received_header) == (NEEDS_CSUM, 0, 0, 0, 34, one.offset, 1)


def test_a_frame_too_short_for_the_checksum_field_of_the_one_before_it_is_a_counted_drop() -> None:
    """Both have the same header."""
    one, header = TCP4._replace(payload=b"payload"), NET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 16, 0)
    with rig(features=FEATURES | OFFLOADS) as r:
        r.b.driver.post(8)
        for frame in (one.frame, one.frame[:51], one.frame[:52]):
            r.a.driver.send(frame, header)
        r.settle()
        assert r.a.port.counters().rx_dropped["gso_unsupported"] == 1
        assert r.b.driver.receive_all() == [one.frame, one.frame[:52]]


@pytest.mark.parametrize("in_pieces", [False, True], ids=["one piece", "three pieces"])
@pytest.mark.parametrize("super_frame", [False, True], ids=["no super-frame", "a super-frame"])
@pytest.mark.parametrize("takes", [0, mask(NET_F_GUEST_CSUM), OFFLOADS], ids=["nothing", "checksums", "everything"])
def test_frames_of_a_burst_get_what_each_asks_for_and_keep_their_order(
    takes: int, super_frame: bool, in_pieces: bool
) -> None:
    """Nothing; a checksum at two places, some of them in three pieces; and to be cut."""
    tcp, udp, big = TCP4._replace(payload=b"first"), UDP4._replace(payload=b"second"), TCP4
    frames = [tcp, None, udp, udp, tcp, *[big] * super_frame, None, tcp, None, udp]
    with rig(features=FEATURES | OFFLOADS, b_features=FEATURES | takes) as r:
        r.b.driver.post(32, bytes=5000)
        for number, one in enumerate(frames):
            asks = one.asks if one is big else (NEEDS_CSUM, 0, 0, 0, 34, one.offset) if one else (0,) * 6
            (piece,) = r.a.driver.offer(one.frame if one else GOOD, NET_HEADER.pack(*asks, 0))
            edges = [0, 12, 49, piece.bytes] if in_pieces and number % 4 > 1 else [0, piece.bytes]
            rows = [Piece(piece.addr + start, stop - start) for start, stop in pairwise(edges)]
            r.a.queues[1].make_available(r.a.queues[1].chain(rows))
        r.settle()
        got = []
        while frame := r.b.driver.receive_if_there():
            header = NET_HEADER.unpack(r.b.driver.received_header)
            assert takes or header == (0, 0, 0, 0, 0, 0, 1)
            got.append(finished(frame, header))
        whole = [finished(big.frame, big.asks)]
        expected = [
            [GOOD] if one is None else whole if one is big and takes == OFFLOADS else list(one.pieces) for one in frames
        ]
        assert got == [piece for pieces in expected for piece in pieces]
