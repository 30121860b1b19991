"""What a built-in guest leaves to its network card: frames of TCP over IPv4 with headers as Linux leaves them.

Virtio 1.2, section 5.1.6.2: the checksum field holds the sum of the pseudo-header, and the virtio-net header says where
the checksum begins and goes.
"""

from __future__ import annotations

import ipaddress
import struct

__all__ = ["ASKS", "LEAD_BYTES", "LEAST_BYTES", "SEGMENT_BYTES", "frame_headers", "net_header"]

ASKS = ("nothing", "checksum", "segments")
"""What a guest may leave to its card. "segments": the checksum too, and frames longer than its MTU are to be cut."""
SEGMENT_BYTES = 1460
"""TCP payload of a frame of 1514 bytes, which an MTU of 1500 bytes allows."""
LEAD_BYTES = 40
"""IPv4 and TCP headers, between the Ethernet header and what a frame holds."""
LEAST_BYTES = 30 + LEAD_BYTES
"""Of such a frame with a number and its check word in it (content.pxd), which is 30 without these headers."""
ETHERNET_BYTES, IP_BYTES = 14, 20
NEEDS_CSUM, GSO_TCPV4 = 1, 1
CHECKSUM_OFFSET = 16
ETHERTYPE_IPV4, TCP = 0x0800, 6


def net_header(asks: str, frame_bytes: int) -> bytes:
    """The virtio-net header of such a frame, without num_buffers: 10 bytes. ValueError for what is not in ASKS."""
    if asks not in ASKS:
        raise ValueError(f"a guest asks for {asks!r}: give one of {', '.join(ASKS)}")
    if asks == "nothing":
        return bytes(10)
    lead = ETHERNET_BYTES + LEAD_BYTES
    cut = asks == "segments" and frame_bytes > lead + SEGMENT_BYTES
    gso_type, gso_size = (GSO_TCPV4, SEGMENT_BYTES) if cut else (0, 0)
    return struct.pack(
        "<BBHHHH", NEEDS_CSUM, gso_type, lead if cut else 0, gso_size, ETHERNET_BYTES + IP_BYTES, CHECKSUM_OFFSET
    )


def frame_headers(ethernet: bytes, frame_bytes: int) -> bytes:
    """Ethernet, IPv4 and TCP headers of a frame of so many bytes. ethernet: both addresses."""
    ip_bytes = frame_bytes - ETHERNET_BYTES
    addresses = ipaddress.IPv4Address("192.0.2.1").packed + ipaddress.IPv4Address("192.0.2.2").packed
    ip = struct.pack(">BBHHHBBH", 0x45, 0, ip_bytes, 0, 0x4000, 64, TCP, 0) + addresses
    ip = ip[:10] + (_sum(ip) ^ 0xFFFF).to_bytes(2, "big") + ip[12:]
    pseudo = _sum(addresses + struct.pack(">HH", TCP, ip_bytes - IP_BYTES))
    tcp = struct.pack(">HHIIBBHHH", 9, 9, 1, 1, 5 << 4, 0x10, 0xFFFF, pseudo, 0)
    return ethernet[:12] + struct.pack(">H", ETHERTYPE_IPV4) + ip + tcp


def _sum(data: bytes) -> int:
    """RFC 1071, not inverted, of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
