"""What a guest leaves to its card: passed on to a guest that takes it so, done in the copy for one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from bench.guests.short_dir import short_dir
from fastvhost.backend.features import NET_F_CSUM as CSUM
from fastvhost.backend.features import NET_F_GUEST_CSUM as GUEST_CSUM
from fastvhost.backend.features import OFFLOADS, mask
from tests.driver import NET_HEADER
from tests.frontend import FEATURES, Guest
from tests.unit.test_live_traffic import Switch

NEEDS_CSUM, TCPV4 = 1, 1
ALL = FEATURES | OFFLOADS
SUMS = FEATURES | mask(CSUM, GUEST_CSUM)
IP_AT, TCP_AT = 14, 34


def words(data: bytes) -> int:
    """The sum of RFC 1071, not inverted."""
    data += bytes(len(data) & 1)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_frame(payload: bytes, *, sequence: int = 1) -> bytes:
    """TCP over IPv4 as a kernel leaves it to a card: the checksum field holds the sum of the pseudo-header."""
    addresses = IPv4Address("10.0.0.1").packed + IPv4Address("10.0.0.2").packed
    ip = bytearray(b"\x45\0" + (40 + len(payload)).to_bytes(2, "big") + b"\x12\x34\x40\0\x40\x06\0\0" + addresses)
    ip[10:12] = (words(bytes(ip)) ^ 0xFFFF).to_bytes(2, "big")
    pseudo = words(addresses + b"\0\x06" + (20 + len(payload)).to_bytes(2, "big"))
    tcp = b"\x10\0\x20\0" + sequence.to_bytes(4, "big") + bytes(4) + b"\x50\x18\x10\0"
    tcp += pseudo.to_bytes(2, "big") + b"\0\0"
    return b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0" + bytes(ip) + tcp + payload


def is_whole(frame: bytes) -> bool:
    """Whether all sums of a TCP frame are right, and its length is what IP says."""
    ip, tcp = frame[IP_AT:TCP_AT], frame[TCP_AT:]
    pseudo = ip[12:20] + b"\0\x06" + len(tcp).to_bytes(2, "big")
    return words(ip) == 0xFFFF and words(pseudo + tcp) == 0xFFFF and int.from_bytes(ip[2:4], "big") == len(ip + tcp)


@pytest.fixture
def switch() -> Iterator[Switch]:
    with short_dir() as directory:
        switch = Switch(directory)
        yield switch
        switch.close()


def boot(switch: Switch, *features: int) -> tuple[Guest, Guest]:
    a, b = (
        Guest.boot(path, features=bits, memory_bytes=16 << 20, receive_buffers=64, timeout=30)
        for path, bits in zip(switch.paths, features, strict=True)
    )
    assert (a.frontend.features, b.frontend.features) == features
    return a, b


def test_a_checksum_is_left_to_a_guest_that_fills_it_in(switch: Switch) -> None:
    a, b = boot(switch, SUMS, SUMS)
    with a, b:
        frame = tcp_frame(b"hello")
        a.net.send(frame, a.net.header(NEEDS_CSUM, start=TCP_AT, offset=16))
        assert b.net.receive(30) == frame
        assert NET_HEADER.unpack(b.net.received_header)[0::4] == (NEEDS_CSUM, TCP_AT)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 63, 1460])
def test_a_checksum_is_filled_in_for_a_guest_that_does_not(switch: Switch, length: int) -> None:
    a, b = boot(switch, SUMS, FEATURES)
    with a, b:
        frame = tcp_frame(random.Random(length).randbytes(length))
        a.net.send(frame, a.net.header(NEEDS_CSUM, start=TCP_AT, offset=16))
        arrived = b.net.receive(30)
        assert is_whole(arrived)
        assert arrived[:50] + arrived[52:] == frame[:50] + frame[52:]
        assert NET_HEADER.unpack(b.net.received_header)[:6] == (0,) * 6


@pytest.mark.parametrize("receiver", [FEATURES, SUMS], ids=["plain", "that fills in checksums"])
def test_a_super_frame_is_cut_for_a_guest_that_takes_none(switch: Switch, receiver: int) -> None:
    a, b = boot(switch, ALL, receiver)
    with a, b:
        payload = random.Random(7).randbytes(30_000)
        a.net.send(tcp_frame(payload), a.net.header(NEEDS_CSUM, TCPV4, 54, 1448, TCP_AT, 16))
        arrived = [b.net.receive(30) for _ in range(-(-len(payload) // 1448))]
        assert b"".join(frame[54:] for frame in arrived) == payload
        assert [len(frame) for frame in arrived[:-1]] == [54 + 1448] * (len(arrived) - 1)
        if receiver == FEATURES:
            assert all(map(is_whole, arrived))
        assert [int.from_bytes(frame[38:42], "big") for frame in arrived] == [1 + 1448 * i for i in range(len(arrived))]
