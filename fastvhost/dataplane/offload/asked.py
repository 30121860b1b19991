"""What a frame's virtio-net header asks for, as a program sees it and says it. Virtio 1.2, section 5.1.6.2."""

from __future__ import annotations

from typing import Final, NamedTuple

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80
"""Added to one of the two of TCP: the first piece alone has CWR."""
KINDS: Final = (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4)
CHECKSUM_BYTES: Final = 2
LEAST_GSO_SIZE: Final = 64
MOST_PIECES: Final = 1024
MOST_16_BITS: Final = 0xFFFF
LONGEST: Final = 65535 + 14


class Offload(NamedTuple):
    """What is left to be done to a frame: nothing, a checksum, or cutting it into segments.

    All numbers are bytes, from the frame's first byte on unless said otherwise.
    """

    needs_csum: bool = False
    """The two bytes at csum_start + csum_offset hold the pseudo-header's sum. The checksum of all bytes from csum_start
    on belongs there."""
    csum_start: int = 0
    csum_offset: int = 0
    """From csum_start on: 16 for TCP, 6 for UDP."""
    gso_type: int = GSO_NONE
    """GSO_TCPV4, GSO_TCPV6 (each with GSO_ECN or without) or GSO_UDP_L4: a super-frame, with headers for one frame."""
    gso_size: int = 0
    """Payload of each of its segments but the last."""
    hdr_len: int = 0
    """Ethernet to TCP or UDP. A hint, which may be 0."""


PLAIN: Final = Offload()


def fault(asked: Offload, frame_bytes: int) -> str:
    """Why no frame of this length can ask for that, and what helps; empty where one can."""
    for name in ("csum_start", "csum_offset", "gso_size", "hdr_len"):
        if not 0 <= getattr(asked, name) <= MOST_16_BITS:
            return f"{name} {getattr(asked, name)}: it has 16 bits; give 0 to {MOST_16_BITS}"
    if frame_bytes > LONGEST:
        return f"a frame of {frame_bytes} bytes; one that leaves work to others has {LONGEST} at the most"
    end = asked.csum_start + asked.csum_offset + CHECKSUM_BYTES
    if asked.needs_csum and end > frame_bytes:
        return (
            f"csum_start {asked.csum_start} and csum_offset {asked.csum_offset}: the checksum would end at {end}, "
            f"beyond a frame of {frame_bytes} bytes; give the place of TCP or UDP, and 16 or 6"
        )
    if asked.gso_type == GSO_NONE:
        return ""
    if not 0 < asked.gso_type <= 0xFF or asked.gso_type & ~GSO_ECN not in KINDS:
        return f"gso_type {asked.gso_type}: there is none; give 0, GSO_TCPV4, GSO_TCPV6 or GSO_UDP_L4"
    if not asked.needs_csum:
        without = f"gso_type {asked.gso_type} without needs_csum"
        return f"{without}: segments need checksums; give csum_start and csum_offset, too"
    least = max(LEAST_GSO_SIZE, -(-(frame_bytes - asked.csum_start) // MOST_PIECES))
    if asked.gso_size < least:
        return f"gso_size {asked.gso_size}: of a frame of {frame_bytes} bytes, segments have {least} at the least"
    return ""
