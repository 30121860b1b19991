"""The look at captured frames that the tests with real kernels rest on: does it see what is wrong?"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.integration.frame_capture import Captured, faults, ones_sum

ALL = frozenset({"CSUM", "TSO4", "TSO6", "USO"})
ADDRESSES = bytes([10, 0, 0, 1, 10, 0, 0, 2])


def made(payload: int, *, left_out: bool, gso_size: int = 0) -> Captured:
    """A frame of TCP over IPv4, with its sums, or with its checksum left to the card."""
    pseudo = ones_sum(ADDRESSES + struct.pack(">II", 20 + payload, 6))
    tcp = bytearray(struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 512, 0, 0) + bytes(range(256)) * (payload // 256))
    tcp += bytes(payload % 256)
    tcp[16:18] = (pseudo if left_out else 0xFFFF - ones_sum(bytes(tcp) + pseudo.to_bytes(2, "big"))).to_bytes(2, "big")
    ip = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 40 + payload, 7, 0, 64, 6, 0) + ADDRESSES)
    ip[10:12] = (0xFFFF - ones_sum(bytes(ip))).to_bytes(2, "big")
    data = bytes(12) + b"\x08\0" + bytes(ip) + bytes(tcp)
    return Captured(None, int(left_out), 1 if gso_size else 0, gso_size, 34 * left_out, 16 * left_out, data)


@pytest.mark.parametrize("frame", [
    made(1460, left_out=False), made(1024, left_out=True), made(30000, left_out=True, gso_size=1448),
], ids=["summed", "left out", "super-frame"])  # fmt: skip
def test_a_frame_as_it_should_be_has_no_fault_and_one_with_any_bit_of_it_flipped_has(frame: Captured) -> None:
    assert faults(frame, 1500, ALL) == []
    # Addresses of Ethernet are in no sum, nor is data whose checksum is left out.
    for at in range(14, 52 if frame.flags else len(frame.data), 3):
        if frame.flags and 34 <= at < 50:
            continue
        flipped = bytearray(frame.data)
        flipped[at] ^= 0x10
        assert faults(replace(frame, data=bytes(flipped)), 1500, ALL), at


def test_what_was_not_agreed_is_found() -> None:
    large, bare = made(30000, left_out=True, gso_size=1448), made(1000, left_out=True)
    assert faults(large, 1500, frozenset({"CSUM"}))
    assert faults(bare, 1500, frozenset())
    assert faults(made(1461, left_out=False), 1500, ALL)
    assert faults(replace(large, gso_size=1461), 1500, ALL)
    assert faults(replace(large, gso_size=0), 1500, ALL)
    assert faults(replace(bare, csum_start=33), 1500, ALL)
