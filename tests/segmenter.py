"""Super-frames as a sender leaves them to its card, and what a card must make of them: a model, written for the tests.

IEEE 802.3 and 802.1Q, RFC 791, 8200, 9293, 3168 and 768; what Linux's own segmentation does where these leave a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

TCPV4, TCPV6, UDP_L4, ECN = 1, 4, 5, 0x80
NEEDS_CSUM = 1
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
TCP, UDP, DESTINATION_OPTIONS = 6, 17, 60
TAGS = (b"", b"\x81\x00\x00\x2a", b"\x88\xa8\x00\x07\x81\x00\x00\x2a")


def checksum(data: bytes, start: int = 0) -> int:
    """RFC 1071."""
    total = start + sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class SuperFrame(NamedTuple):
    """Headers and payload, from which a frame of any part of the payload can be made."""

    payload: bytes
    size: int
    """Bytes of payload in each piece."""
    udp: bool = False
    ipv6: bool = False
    tags: bytes = b""
    extra: bytes = b""
    """IPv4 options, or IPv6 extension headers, of which the first is one of destination options."""
    options: bytes = b""
    """Of TCP."""
    flags: int = ACK
    sequence: int = 0xFFFFFF00
    number: int = 0xFFF0
    accurate_ecn: bool = False
    """CWR is part of a counter (RFC 9768), not set once (RFC 3168)."""

    @property
    def protocol(self) -> int:
        return UDP if self.udp else TCP

    @property
    def ip_at(self) -> int:
        return 14 + len(self.tags)

    @property
    def start(self) -> int:
        """Where TCP or UDP begins: csum_start."""
        return self.ip_at + (40 if self.ipv6 else 20) + len(self.extra)

    @property
    def offset(self) -> int:
        """csum_offset."""
        return 6 if self.udp else 16

    @property
    def gso_type(self) -> int:
        kind = UDP_L4 if self.udp else TCPV6 if self.ipv6 else TCPV4
        return kind | (ECN if self.flags & CWR and not self.udp and not self.accurate_ecn else 0)

    @property
    def header_bytes(self) -> int:
        return self.start + (8 if self.udp else 20 + len(self.options))

    @property
    def asks(self) -> tuple[int, ...]:
        """The fields of its virtio-net header."""
        return NEEDS_CSUM, self.gso_type, self.header_bytes, self.size, self.start, self.offset

    @property
    def addresses(self) -> bytes:
        return bytes(range(1, 33 if self.ipv6 else 9))

    def pseudo(self, length: int) -> bytes:
        return self.addresses + length.to_bytes(4, "big") + self.protocol.to_bytes(4, "big")

    def part(self, at: int, payload: bytes, flags: int, *, whole: bool) -> bytes:
        """A frame with these bytes of the payload. whole: its checksum is filled in."""
        above = (8 if self.udp else 20 + len(self.options)) + len(payload)
        ether = bytes(range(12)) + self.tags + (b"\x86\xdd" if self.ipv6 else b"\x08\0")
        if self.ipv6:
            first = DESTINATION_OPTIONS if self.extra else self.protocol
            ip = b"\x60\1\2\3" + (len(self.extra) + above).to_bytes(2, "big") + bytes([first, 64]) + self.addresses
            ip += self.extra
        else:
            length, number = 20 + len(self.extra) + above, (self.number + at // self.size) & 0xFFFF
            ip = bytes([0x45 + len(self.extra) // 4, 0]) + length.to_bytes(2, "big") + number.to_bytes(2, "big")
            ip += bytes([0x40, 0, 64, self.protocol, 0, 0]) + self.addresses + self.extra
            ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        if self.udp:
            header = b"\x04\0\x05\0" + above.to_bytes(2, "big")
        else:
            sequence = (self.sequence + at) & 0xFFFFFFFF
            header = b"\x04\0\x05\0" + sequence.to_bytes(4, "big") + b"\0\0\0\7"
            header += bytes([(20 + len(self.options)) << 2, flags]) + b"\x01\0"
        rest = (b"" if self.udp else b"\0\0" + self.options) + payload
        total = checksum(self.pseudo(above)) ^ 0xFFFF
        if whole:
            total = checksum(header + bytes(2) + rest, total) or 0xFFFF
        return ether + ip + header + total.to_bytes(2, "big") + rest

    @property
    def frame(self) -> bytes:
        """As its sender leaves it: the field holds the sum of the pseudo-header."""
        return self.part(0, self.payload, self.flags, whole=False)

    @property
    def pieces(self) -> Iterator[bytes]:
        """As a receiver gets it that takes neither super-frames nor unfinished checksums."""
        for at in range(0, max(len(self.payload), 1), self.size):
            last = at + self.size >= len(self.payload)
            flags = self.flags & ~(0 if last else FIN | PSH) & ~(CWR if at and not self.accurate_ecn else 0)
            yield self.part(at, self.payload[at : at + self.size], flags, whole=True)


def extensions(*lengths: int, protocol: int) -> bytes:
    """IPv6 extension headers of so many times 8 bytes, each of destination options, the last before a protocol."""
    kinds = [*[DESTINATION_OPTIONS] * (len(lengths) - 1), protocol]
    return b"".join(
        bytes([kind, n - 1, 1, 8 * n - 4]) + bytes(8 * n - 4) for kind, n in zip(kinds, lengths, strict=False)
    )


def finished(frame: bytes, header: tuple[int, ...]) -> bytes:
    """What a guest makes of a frame that it got with this virtio-net header: the checksum filled in, if that asks."""
    flags, _, _, _, start, offset = header[:6]
    if not flags & NEEDS_CSUM:
        return frame
    total = checksum(frame[start:]) or 0xFFFF
    return frame[: start + offset] + total.to_bytes(2, "big") + frame[start + offset + 2 :]
