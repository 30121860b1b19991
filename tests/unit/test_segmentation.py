"""Checksums and super-frames that the host's stack leaves to the card: a packet port completes and cuts them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from tests.probes.offloads import cut
from tests.unit.checksums import internet_sum

TCPV4, UDP_FRAGMENTS, TCPV6, UDP, ECN = 1, 3, 4, 5, 0x80
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
FIRST = 0xFFFFFF00
"""TCP's number of the first byte: it wraps."""
SEGMENT = 1448


def below(protocol: int, length: int, *, ipv6: bool, tag: bool) -> tuple[bytes, int]:
    """Ethernet and IP headers, and the pseudo-header's sum, which the stack leaves where the checksum belongs."""
    ether = bytes(range(12)) + (b"\x81\x00\x00\x2a" if tag else b"") + (b"\x86\xdd" if ipv6 else b"\x08\x00")
    addresses = bytes(range(32)) if ipv6 else bytes(range(8))
    if ipv6:
        ip = struct.pack(">IHBB", 6 << 28, min(length, 65535), protocol, 64) + addresses
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0xFFFE, 0, 64, protocol, 0) + addresses
        ip = ip[:10] + (internet_sum(ip) ^ 0xFFFF).to_bytes(2, "big") + ip[12:]
    return ether + ip, internet_sum(addresses + struct.pack(">II", length, protocol))


def super_frame(payload: bytes, *, ipv6: bool = False, tag: bool = False, flags: int = ACK, options: int = 12) -> bytes:
    """TCP as the stack hands it down."""
    headers, pseudo = below(6, 20 + options + len(payload), ipv6=ipv6, tag=tag)
    offset = (20 + options) // 4 << 4
    tcp = struct.pack(">HHIIBBHHH", 80, 8080, FIRST, 7, offset, flags, 512, pseudo, 0) + b"\1" * options
    return headers + tcp + payload


def datagrams(payload: bytes, *, ipv6: bool = False, tag: bool = False) -> bytes:
    """A frame as a UDP socket with UDP_SEGMENT hands it down: one header, payloads one behind the other."""
    length = 8 + len(payload)
    headers, pseudo = below(17, length, ipv6=ipv6, tag=tag)
    return headers + struct.pack(">HHHH", 80, 8080, length, pseudo) + payload


def l4(frame: bytes) -> int:
    """Where TCP or UDP begins in frames made above."""
    at = 12
    while frame[at : at + 2] == b"\x81\x00":
        at += 4
    return at + 2 + (40 if frame[at : at + 2] == b"\x86\xdd" else 20)


def checked(piece: bytes, protocol: int) -> bytes:
    """What is above IP; lengths and checksums are right."""
    start = l4(piece)
    ip = start - (40 if piece[start - 42 : start - 40] == b"\x86\xdd" else 20)
    if start - ip == 20:
        assert internet_sum(piece[ip:start]) == 0xFFFF
        assert int.from_bytes(piece[ip + 2 : ip + 4], "big") == len(piece) - ip
        addresses = piece[ip + 12 : ip + 20]
    else:
        assert int.from_bytes(piece[ip + 4 : ip + 6], "big") == len(piece) - start
        addresses = piece[ip + 8 : ip + 40]
    assert internet_sum(addresses + struct.pack(">II", len(piece) - start, protocol) + piece[start:]) == 0xFFFF
    return piece[start:]


def check(piece: bytes) -> bytes:
    """Its payload. TCP."""
    tcp = checked(piece, 6)
    return tcp[4 * (tcp[12] >> 4) :]


def check_datagram(piece: bytes) -> bytes:
    """Its payload; UDP's own length is right, too, and there is a checksum."""
    udp = checked(piece, 17)
    assert int.from_bytes(udp[4:6], "big") == len(udp)
    assert udp[6:8] != b"\0\0"
    return udp[8:]


def cut_by_tcp(payload: bytes, *, ipv6: bool, tag: bool) -> tuple[list[bytes], list[bytes]]:
    """Pieces and their payloads. Flags are where they belong, and the numbers of bytes go on."""
    frame = super_frame(payload, ipv6=ipv6, tag=tag, flags=ACK | PSH | FIN | CWR)
    tcp = l4(frame)
    pieces = cut(frame, (TCPV6 if ipv6 else TCPV4) | ECN, SEGMENT, tcp, 16)
    for number, piece in enumerate(pieces):
        flags = piece[tcp + 13]
        assert bool(flags & (FIN | PSH)) == (number == len(pieces) - 1)
        assert bool(flags & CWR) == (number == 0)
        assert int.from_bytes(piece[tcp + 4 : tcp + 8], "big") == (FIRST + SEGMENT * number) & 0xFFFFFFFF
    return pieces, list(map(check, pieces))


def cut_by_udp(payload: bytes, *, ipv6: bool, tag: bool) -> tuple[list[bytes], list[bytes]]:
    """Pieces and their payloads."""
    frame = datagrams(payload, ipv6=ipv6, tag=tag)
    pieces = cut(frame, UDP, SEGMENT, l4(frame), 6)
    return pieces, list(map(check_datagram, pieces))


@pytest.mark.parametrize("tag", [False, True], ids=["untagged", "tagged"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("length", [1, SEGMENT, SEGMENT + 1, 64000, 65000 - 100])
@pytest.mark.parametrize("cutting", [cut_by_tcp, cut_by_udp], ids=["TCP", "UDP"])
def test_pieces_of_a_super_frame_are_frames_of_their_own_with_all_of_its_payload(
    cutting: Callable[..., tuple[list[bytes], list[bytes]]], length: int, ipv6: bool, tag: bool
) -> None:
    payload = random.Random(length).randbytes(length)
    pieces, payloads = cutting(payload, ipv6=ipv6, tag=tag)
    assert payloads == [payload[at : at + SEGMENT] for at in range(0, length, SEGMENT)]
    if not ipv6:
        numbers = [int.from_bytes(piece[l4(piece) - 16 : l4(piece) - 14], "big") for piece in pieces]
        assert numbers == [(0xFFFE + number) & 0xFFFF for number in range(len(pieces))]


def test_a_datagram_whose_sum_comes_out_as_none_says_so_in_the_other_way() -> None:
    # The last two bytes make the sum whole: the checksum would be 0, which means that there is none (RFC 768).
    for filler in range(0x10000):
        payload = filler.to_bytes(2, "big") + bytes(2)
        (piece,) = cut(datagrams(payload), UDP, 1000, 34, 6)
        if piece[40:42] == b"\xff\xff":
            check_datagram(piece)
            return
    raise AssertionError("some payload has that sum")


def test_headers_of_datagrams_that_lie_are_refused() -> None:
    frame = datagrams(bytes(100))
    assert cut(frame, UDP, 1000, 34, 6) != []
    assert cut(frame, UDP, 0, 34, 6) == []
    assert cut(frame, UDP, 1000, 33, 6) == []
    assert cut(frame, UDP, 1000, 34, 16) == []
    assert cut(frame, TCPV4, 1000, 34, 16) == []
    assert cut(frame[:41], UDP, 1000, 34, 6) == []


def test_more_pieces_than_a_burst_holds_come_in_several_bursts() -> None:
    payload = bytes(range(256)) * 100
    pieces = cut(super_frame(payload), TCPV4, 100, 34, 16)
    assert len(pieces) == 256
    assert b"".join(map(check, pieces)) == payload


def test_a_frame_with_a_checksum_to_complete_gets_it() -> None:
    for length in (0, 1, 2, 3, 100, 1459):
        frame = super_frame(random.Random(length).randbytes(length))
        (completed,) = cut(frame, 0, 0, 34, 16)
        check(completed)
        assert completed[:50] == frame[:50]


@pytest.mark.parametrize(
    ("gso_type", "gso_bytes", "start", "offset"),
    [
        (UDP_FRAGMENTS, 1448, 34, 16),
        (UDP, 1448, 34, 16),
        (UDP, 1448, 34, 6),
        (TCPV6, 1448, 34, 16),
        (TCPV4, 0, 34, 16),
        (TCPV4, 1448, 33, 16),
        (TCPV4, 1448, 20, 16),
        (TCPV4, 1448, 34, 6),
        (TCPV4, 1448, 60000, 16),
        (0, 0, 60000, 16),
        (0, 0, 34, 60000),
        (0, 0, 165, 0),
    ],
)
def test_headers_that_lie_are_refused(gso_type: int, gso_bytes: int, start: int, offset: int) -> None:
    assert cut(super_frame(bytes(100)), gso_type, gso_bytes, start, offset) == []


def test_headers_that_do_not_fit_into_the_frame_are_refused() -> None:
    frame = super_frame(b"", options=0)
    assert cut(frame, TCPV4, 1448, 34, 16) != []
    assert cut(frame[:-1], TCPV4, 1448, 34, 16) == []
    beyond = bytearray(frame)
    beyond[34 + 12] = 0xF0  # sixty bytes of TCP header, of which twenty are there
    assert cut(bytes(beyond), TCPV4, 1448, 34, 16) == []
    short = bytearray(frame)
    short[34 + 12] = 0x40
    assert cut(bytes(short), TCPV4, 1448, 34, 16) == []


def in_vxlan(inner: bytes, *, ipv6: bool = False, tag: bool = False, checksum: int = 0) -> bytes:
    """A frame in a datagram, as a stack hands it down that leaves all of it to a card."""
    tunnel = b"\x08\0\0\0\0\0\x07\0"
    headers, _ = below(17, 8 + len(tunnel) + len(inner), ipv6=ipv6, tag=tag)
    return headers + struct.pack(">HHHH", 50000, 4789, 8 + len(tunnel) + len(inner), checksum) + tunnel + inner


@pytest.mark.parametrize("checksum", [0, 0x1234], ids=["no outer sum", "an outer sum"])
@pytest.mark.parametrize("outer_ipv6", [False, True], ids=["outer IPv4", "outer IPv6"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_a_super_frame_in_vxlan_is_cut_into_frames_in_vxlan(outer_ipv6: bool, ipv6: bool, checksum: int) -> None:
    payload = random.Random(8).randbytes(20_000)
    inner = super_frame(payload, ipv6=ipv6, flags=ACK | PSH)
    frame = in_vxlan(inner, ipv6=outer_ipv6, tag=True, checksum=checksum)
    skipped = len(frame) - len(inner)
    kind = TCPV6 if ipv6 else TCPV4
    alone = cut(inner, kind, SEGMENT, l4(inner), 16)
    pieces = cut(frame, kind, SEGMENT, skipped + l4(inner), 16, parts=(10, 30), room=3)
    assert [piece[skipped:] for piece in pieces] == alone
    assert len(pieces) == -(-len(payload) // SEGMENT)
    for number, piece in enumerate(pieces):
        udp = l4(piece)
        assert int.from_bytes(piece[udp + 4 : udp + 6], "big") == len(piece) - udp
        ip = piece[18:udp]
        if outer_ipv6:
            assert int.from_bytes(ip[4:6], "big") == len(piece) - udp
        else:
            assert int.from_bytes(ip[2:4], "big") == len(piece) - 18
            assert int.from_bytes(ip[4:6], "big") == (0xFFFE + number) & 0xFFFF
            assert internet_sum(ip) == 0xFFFF
        if checksum:
            addresses = ip[8:40] if outer_ipv6 else ip[12:20]
            pseudo = addresses + struct.pack(">II", len(piece) - udp, 17)
            assert internet_sum(pseudo + piece[udp:]) == 0xFFFF
        else:
            assert piece[udp + 6 : udp + 8] == b"\0\0"
        # All else is as it was.
        assert piece[:18] + piece[udp : udp + 4] + piece[udp + 8 : skipped] == (
            frame[:18] + frame[udp : udp + 4] + frame[udp + 8 : skipped]
        )


BROKEN_TUNNELS: dict[str, Callable[[bytes], bytes]] = {
    "longer than it says": lambda frame: in_vxlan(frame) + b"\0",
    "a datagram of another length": lambda frame: in_vxlan(frame)[:38] + b"\0\x40" + in_vxlan(frame)[40:],
    "IP options that are none": lambda frame: in_vxlan(frame)[:14] + b"\x4f" + in_vxlan(frame)[15:],
    "options of Geneve to behind the inner": lambda frame: (
        in_vxlan(frame)[:36] + b"\x17\xc1" + in_vxlan(frame)[38:42] + b"\x3f" + in_vxlan(frame)[43:]
    ),
}


@pytest.mark.parametrize("change", BROKEN_TUNNELS.values(), ids=BROKEN_TUNNELS)
def test_a_tunnel_that_is_not_as_it_should_be_is_dropped(change: Callable[[bytes], bytes]) -> None:
    inner = super_frame(bytes(9000))
    frame = change(inner)
    assert cut(frame, TCPV4, SEGMENT, 50 + l4(inner), 16) == []
