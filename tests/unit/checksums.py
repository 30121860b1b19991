"""The Internet checksum, written from RFC 1071."""

from __future__ import annotations

import struct


def internet_sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words, not yet inverted."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
