"""Virtio-net headers and super-frames that lie: each with what it lies about. Virtio 1.2, section 5.1.6.2.

Two kinds. What the virtio-net header says by itself is refused where a frame comes in; what the headers of the frame
say is looked at by whoever cuts it, so a receiver that takes super-frames gets it as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.segmenter import NEEDS_CSUM, TCP, TCPV4, TCPV6, UDP_L4, SuperFrame, extensions

SIZE = 1000
TCP4 = SuperFrame(bytes(range(250)) * 16, SIZE)
TCP6 = TCP4._replace(ipv6=True)
UDP4 = TCP4._replace(udp=True)
UDP_FRAGMENTS = 3


class Malformed(NamedTuple):
    frame: bytes
    asks: tuple[int, ...]
    """flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""


def asking(one: SuperFrame = TCP4, **fields: int) -> Malformed:
    """A good frame whose virtio-net header has other fields."""
    names = ("flags", "gso_type", "hdr_len", "gso_size", "start", "offset")
    return Malformed(one.frame, tuple(fields.get(name, good) for name, good in zip(names, one.asks, strict=True)))


def saying(one: SuperFrame, at: int, *data: int) -> Malformed:
    """A frame with other bytes at a place in its own headers."""
    frame = one.frame
    return Malformed(frame[:at] + bytes(data) + frame[at + len(data) :], one.asks)


END = len(TCP4.frame)
HEADERS = {
    "csum_start_past_the_end": asking(gso_type=0, gso_size=0, start=END),
    "csum_start_of_65535": asking(gso_type=0, gso_size=0, start=0xFFFF, offset=0),
    "csum_offset_past_the_end": asking(gso_type=0, gso_size=0, offset=END - 34),
    "csum_start_and_offset_of_65535": asking(gso_type=0, gso_size=0, start=0xFFFF, offset=0xFFFF),
    "a_checksum_field_on_the_last_byte": asking(gso_type=0, gso_size=0, offset=END - 34 - 1),
    "a_super_frame_whose_field_is_past_the_end": asking(start=END - 17),
    "gso_without_needs_csum": asking(flags=0),
    "gso_without_needs_csum_and_without_a_place_for_it": asking(flags=0, start=0, offset=0),
    "gso_size_0": asking(gso_size=0),
    "gso_size_1": asking(gso_size=1),
    "gso_size_63": asking(gso_size=63),
    "csum_start_in_the_ethernet_header": asking(start=12),
    "csum_start_on_the_last_byte_of_the_ethernet_header": asking(gso_type=0, gso_size=0, start=13, offset=40),
    "a_checksum_in_the_destination_address": asking(gso_type=0, gso_size=0, start=0, offset=0),
    "udp_fragmentation": asking(UDP4, gso_type=UDP_FRAGMENTS),
    "gso_type_2": asking(gso_type=2),
    "gso_type_6": asking(gso_type=6),
    "gso_type_127": asking(gso_type=0x7F),
    "gso_type_of_only_ecn": asking(gso_type=0x80),
    "gso_type_255": asking(gso_type=0xFF),
}
"""By what they say. Whoever the frame goes to, it is refused."""

LIES = {
    "csum_start_in_the_ip_header": asking(start=33),
    "csum_start_behind_the_tcp_header": asking(start=54),
    "csum_start_one_byte_late": asking(start=35),
    "csum_offset_of_udp_for_tcp": asking(offset=6),
    "csum_offset_of_tcp_for_udp": asking(UDP4, offset=16),
    "tcp_over_ipv6_that_is_ipv4": asking(gso_type=TCPV6),
    "tcp_over_ipv4_that_is_ipv6": asking(TCP6, gso_type=TCPV4),
    "udp_that_is_tcp": asking(gso_type=UDP_L4, offset=6),
    "tcp_that_is_udp": asking(UDP4, gso_type=TCPV4, offset=16),
    "a_tcp_data_offset_of_4": saying(TCP4, 34 + 12, 0x40),
    "a_tcp_data_offset_of_0": saying(TCP4, 34 + 12, 0x00),
    "a_tcp_data_offset_beyond_the_frame": Malformed(
        (short := TCP4._replace(payload=bytes(30))).frame[:46] + b"\xf0" + short.frame[47:], short.asks
    ),
    "a_tcp_header_beyond_the_frame": Malformed(
        TCP4._replace(payload=b"").frame[:-1], (NEEDS_CSUM, TCPV4, 54, SIZE, 34, 16)
    ),
    "an_ipv4_header_length_of_4": saying(TCP4, 14, 0x44),
    "an_ipv4_header_length_of_0": saying(TCP4, 14, 0x40),
    "an_ipv4_header_length_of_15": saying(TCP4, 14, 0x4F),
    "an_ip_version_of_5": saying(TCP4, 14, 0x55),
    "an_ip_version_of_4_behind_the_type_of_ipv6": saying(TCP6, 14, 0x40),
    "an_ipv4_length_of_0": saying(TCP4, 16, 0, 0),
    "an_ipv4_length_of_one_too_few": saying(TCP4, 16, *(END - 15).to_bytes(2, "big")),
    "an_ipv4_length_of_65535": saying(TCP4, 16, 0xFF, 0xFF),
    "a_fragment": saying(TCP4, 20, 0x20, 0),
    "an_offset_of_a_fragment": saying(TCP4, 20, 0, 1),
    "another_protocol_in_ipv4": saying(TCP4, 23, 47),
    "an_ipv6_length_of_0": saying(TCP6, 18, 0, 0),
    "an_ipv6_length_of_65535": saying(TCP6, 18, 0xFF, 0xFF),
    "another_protocol_in_ipv6": saying(TCP6, 20, 47),
    "an_ipv6_fragment_header": saying(TCP6._replace(extra=extensions(1, protocol=TCP)), 20, 44),
    "ipv6_extension_headers_that_end_elsewhere": saying(TCP6._replace(extra=extensions(1, 1, protocol=TCP)), 55, 1),
    "ipv6_extension_headers_without_end": saying(TCP6._replace(extra=extensions(*[1] * 8, protocol=60)), 55, 0),
    "an_ipv6_extension_header_of_2048_bytes": saying(TCP6._replace(extra=extensions(1, protocol=TCP)), 55, 255),
    "thirty_ipv6_extension_headers": asking(TCP6._replace(extra=extensions(*[1] * 30, protocol=TCP))),
    "three_vlan_tags": asking(TCP4._replace(tags=b"\x81\x00\x00\x2a" * 3)),
    "another_ethertype": saying(TCP4, 12, 0x88, 0xB5),
}
"""By what the frame says. Whoever cuts it refuses it."""
