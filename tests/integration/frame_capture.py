"""A capture of scripts/guest/traffic.c, looked at by nothing of ours: are all sums right, and all lengths as agreed?

tshark looks at some of the frames as well; it knows nothing of headers in front of frames.

RFC 791, 8200, 9293, 768 and 1071; virtio 1.2, section 5.1.6 for the header in front of each frame.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.guests.waits import MAX_WAIT

ETHERNET, VLAN_TAG_BYTES = 14, 4
RECORD = struct.Struct("<II")
NET = struct.Struct("<BBHHHHH")
NO_TAG = 0xFFFFFFFF
NEEDS_CSUM = 1
IPV4, IPV6, VLAN = 0x0800, 0x86DD, 0x8100
PCAP_BEGIN = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, 1)
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


def append_pcap(path: Path, frames: list[Captured]) -> None:
    """Add frames whose checksums are filled in to a file that tshark reads."""
    with path.open("ab") as file:
        if not file.tell():
            file.write(PCAP_BEGIN)
        for frame in frames:
            if not frame.flags & NEEDS_CSUM:
                tag = b"" if frame.tag is None else struct.pack(">HH", VLAN, frame.tag)
                data = frame.data[:12] + tag + frame.data[12:]
                file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)


def with_a_bit_turned(pcap: bytes) -> bytes:
    """The content of such a file, with another last byte of its first frame of more than 1000 bytes."""
    at = len(PCAP_BEGIN)
    while (size := int.from_bytes(pcap[at + 8 : at + 12], "little")) <= 1000:
        at += 16 + size
    last = at + 16 + size - 1
    return pcap[:last] + bytes([pcap[last] ^ 1]) + pcap[last + 1 :]


def found_bad(path: Path, longest: int) -> list[str]:
    """What tshark finds wrong with the frames of such a file: sums, lengths, or more than `longest` bytes."""
    bad = [f"{name}.checksum.status == 0" for name in ("ip", "tcp", "udp")]
    checked = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
    # It takes random payload for protocols that it knows: what it says of those is no matter.
    wrong = " || ".join([*bad, "ip.bogus_ip_length", f"frame.len > {longest}"])
    command = ["tshark", "-n", "-r", str(path), *checked, "-Y", wrong]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=MAX_WAIT).stdout.splitlines()


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
