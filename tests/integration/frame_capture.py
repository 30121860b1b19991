"""A capture of scripts/guest/traffic.c, looked at by nothing of ours: are all sums right, and all lengths as agreed?

RFC 791, 8200, 9293, 768 and 1071; virtio 1.2, section 5.1.6 for the header in front of each frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

ETHERNET = 14
RECORD = struct.Struct("<II")
NET = struct.Struct("<BBHHHHH")
NO_TAG = 0xFFFFFFFF
NEEDS_CSUM = 1
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
CHECKSUM_AT = {TCP: 16, UDP: 6}
GSO_KINDS = {1: "TSO4", 4: "TSO6", 5: "USO"}
ECN = 0x80


@dataclass(frozen=True)
class Captured:
    """A frame as the driver gave it to its kernel, without its VLAN tag."""

    tag: int | None
    flags: int
    gso_type: int
    gso_size: int
    csum_start: int
    csum_offset: int
    data: bytes

    @property
    def kind(self) -> str | None:
        """What of GSO_KINDS it is, if it is a super-frame."""
        return GSO_KINDS[self.gso_type & ~ECN] if self.gso_type else None


def read_capture(path: Path) -> list[Captured]:
    """All whole frames of a file, oldest first."""
    content, at, frames = path.read_bytes(), 0, []
    while at + RECORD.size + NET.size <= len(content):
        size, tag = RECORD.unpack_from(content, at)
        flags, gso_type, _hdr_len, gso_size, start, offset, _ = NET.unpack_from(content, at + RECORD.size)
        at += RECORD.size + NET.size
        if at + size > len(content):
            break  # it was ended while it wrote
        data = content[at : at + size]
        frames.append(Captured(None if tag == NO_TAG else tag, flags, gso_type, gso_size, start, offset, data))
        at += size
    return frames


def ones_sum(data: bytes) -> int:
    """The sum of RFC 1071, not complemented."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def faults(frame: Captured, mtu: int, accepts: frozenset[str]) -> list[str]:
    """What is wrong with a frame for a driver that agreed to CSUM, TSO4, TSO6, USO, or some of them."""
    found: list[str] = []
    most = ETHERNET + (mtu if frame.kind is None else 65535)
    if len(frame.data) > most:
        found.append(f"{len(frame.data)} bytes, of {most} at most")
    if frame.kind is not None and (frame.kind not in accepts or not frame.flags & NEEDS_CSUM):
        found.append(f"a super-frame {frame.kind} with flags {frame.flags}, where {sorted(accepts)} was agreed")
    if frame.flags & NEEDS_CSUM and "CSUM" not in accepts:
        found.append("a checksum is left out")
    ethertype = int.from_bytes(frame.data[12:14], "big")
    if ethertype not in (IPV4, IPV6):
        return found
    ip = frame.data[ETHERNET:]
    if ethertype == IPV4:
        header, length, protocol = 4 * (ip[0] & 15), int.from_bytes(ip[2:4], "big"), ip[9]
        addresses = ip[12:20]
        if ones_sum(ip[:header]) != 0xFFFF:
            found.append("the sum of the IPv4 header is wrong")
    else:
        header, length, protocol = 40, 40 + int.from_bytes(ip[4:6], "big"), ip[6]
        addresses = ip[8:40]
    if not header < length <= len(ip) or (length < len(ip) and len(frame.data) > 60):
        found.append(f"IP says {length} of {len(ip)} bytes")
    if protocol not in CHECKSUM_AT or found:
        return found
    segment = ip[header:length]
    pseudo = ones_sum(addresses + struct.pack(">II", len(segment), protocol))
    at = CHECKSUM_AT[protocol]
    if frame.flags & NEEDS_CSUM:
        if (frame.csum_start, frame.csum_offset) != (ETHERNET + header, at):
            found.append(f"its checksum is said to be at {frame.csum_start} + {frame.csum_offset}")
        if int.from_bytes(segment[at : at + 2], "big") != pseudo:
            found.append("where the checksum is left out, the sum of the pseudo-header is wrong")
    elif ones_sum(segment + b"\0" * (len(segment) % 2) + pseudo.to_bytes(2, "big")) != 0xFFFF:
        found.append("the sum of TCP or UDP is wrong")
    if frame.kind is not None:
        data_bytes = len(segment) - (8 if protocol == UDP else 4 * (segment[12] >> 4))
        headers = len(frame.data) - data_bytes
        if not 0 < frame.gso_size <= mtu + ETHERNET - headers:
            found.append(f"pieces of {frame.gso_size} bytes do not fit in {mtu}")
    return found
