"""Unfinished checksums of a stack at the other end of a veth, which AF_XDP gets without a note about them."""

from __future__ import annotations

import struct

import pytest

from tests.probes.offloads import finish
from tests.unit.checksums import internet_sum

TCP, UDP = 6, 17


def frame(
    protocol: int, payload: bytes, *, ipv6: bool = False, tags: int = 0, fragment: int = 0, field: int | None = None
) -> tuple[bytes, int]:
    """A frame with the pseudo-header's sum, or another one, in the checksum field; and the checksum it should have."""
    addresses = bytes(range(1, 33 if ipv6 else 9))
    if protocol == TCP:
        before, after = struct.pack(">HHIIBBH", 80, 81, 1, 2, 0x50, 0x10, 99), b"\0\0"
    else:
        before, after = struct.pack(">HHH", 5, 6, 8 + len(payload)), b""
    pseudo = addresses + struct.pack(">II", len(before) + 2 + len(after) + len(payload), protocol)
    right = (internet_sum(pseudo + before + b"\0\0" + after + payload) ^ 0xFFFF) or 0xFFFF
    stored = internet_sum(pseudo) if field is None else field
    segment = before + stored.to_bytes(2, "big") + after + payload
    ether = bytes(12) + b"\x81\x00\x00\x2a" * tags + (b"\x86\xdd" if ipv6 else b"\x08\x00")
    if ipv6:
        ip = struct.pack(">IHBB", 6 << 28, len(segment), protocol, 64) + addresses
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, fragment, 64, protocol, 0) + addresses
    return ether + ip + segment, right


def checksum_of(data: bytes, protocol: int, payload: bytes) -> int:
    at = len(data) - len(payload) - (4 if protocol == TCP else 2)
    return int.from_bytes(data[at : at + 2], "big")


SHAPES = [(TCP, False, 0), (UDP, False, 0), (TCP, True, 0), (UDP, True, 1), (TCP, False, 2)]


@pytest.mark.parametrize(("protocol", "ipv6", "tags"), SHAPES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 700, 1459])
def test_an_unfinished_checksum_is_finished(protocol: int, ipv6: bool, tags: int, size: int) -> None:
    payload = bytes(n * 7 & 0xFF for n in range(size))
    left, right = frame(protocol, payload, ipv6=ipv6, tags=tags)
    assert checksum_of(left, protocol, payload) != right
    done = finish(left)
    assert checksum_of(done, protocol, payload) == right
    assert finish(done) == done


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_finished_checksum_stays_right_or_wrong_as_it_is(protocol: int) -> None:
    payload = b"what was said"
    _, right = frame(protocol, payload)
    for field in (right, right ^ 1, 0):
        given, _ = frame(protocol, payload, field=field)
        assert finish(given) == given


def test_a_finished_checksum_that_equals_the_sign_comes_out_as_it_was() -> None:
    # The last word of the payload is chosen so that the right checksum is the pseudo-header's sum.
    found = 0
    for word in range(65536):
        payload = b"even" + word.to_bytes(2, "big")
        given, right = frame(TCP, payload)
        if checksum_of(given, TCP, payload) == right:
            found += 1
            assert finish(given) == given
    assert found


def test_padding_behind_the_packet_does_not_count() -> None:
    given, right = frame(UDP, b"x")
    assert checksum_of(finish(given + b"\xff" * 17)[:-17], UDP, b"x") == right


def test_fragments_and_other_protocols_are_left_alone() -> None:
    for fragment in (0x2000, 0x0001, 0x1FFF):
        given, _ = frame(UDP, b"a piece", fragment=fragment)
        assert finish(given) == given
    for protocol in (1, 58, 132):
        given, _ = frame(protocol, b"something else")
        assert finish(given) == given


@pytest.mark.parametrize(("protocol", "ipv6", "tags"), SHAPES)
def test_a_frame_cut_short_anywhere_is_left_alone(protocol: int, ipv6: bool, tags: int) -> None:
    given, _ = frame(protocol, b"payload", ipv6=ipv6, tags=tags)
    for size in range(len(given)):
        assert finish(given[:size]) == given[:size]
