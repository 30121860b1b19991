"""Cutting a super-frame for an egress that takes none: TCP and UDP segmentation in software. Virtio 1.2, 5.1.6.2.

A *super-frame* is a frame whose head has a gso_type. Its headers are read once; each *piece* gets headers of its own
and a part of the payload, which is copied by the egress alone. The checksum is left to the egress as well: a piece's
head says NEEDS_CSUM.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastvhost.dataplane.frame cimport (
    NEED_ECN,
    NEED_TSO4,
    NEED_TSO6,
    NEED_TUNNEL,
    NEED_USO,
    VISIT_PIECES,
    Delivery,
    FrameBurst,
    Segment,
)
from fastvhost.dataplane.offload.tunnel cimport Tunnel
from fastvhost.dataplane.port cimport PortOps

cdef enum:
    # What an egress without it has its frames cut for.
    CUT_NEEDS = NEED_TSO4 | NEED_TSO6 | NEED_ECN | NEED_USO | NEED_TUNNEL
    # Ethernet, two VLAN tags, IP with options or extension headers, TCP with options; or those of a tunnel and of TCP.
    MOST_CUT_HEADER_BYTES = 256
    # Segments of the pieces of one visit, headers among them; but one piece at least. What is left is the next visit's.
    CUT_SEGMENTS = VISIT_PIECES


# A super-frame on its way. It waits like any other frame: what is left of it is a super-frame again.
cdef struct Super:
    bint begun
    uint32_t reading         # its headers, for who looks on (hold_watch): that touches the sender's memory alone
    bint forgotten           # its port took it back (PortOps.epoch): what is delivered of it is not delivered again
    uint32_t life            # of that port (PortOps.lives)
    uint32_t bytes           # of the frame
    uint32_t header_bytes    # Ethernet to TCP or UDP
    uint32_t ip_at
    uint32_t transport_at
    uint32_t piece_bytes     # payload of each but the last
    uint32_t at              # payload that is delivered, or dropped
    uint32_t segment         # of the frame, in which the rest begins,
    uint32_t offset          # and where
    bint ipv6
    bint udp
    bint ecn                 # CWR is in the first piece alone
    Tunnel tunnel
    uint8_t header[MOST_CUT_HEADER_BYTES]


# Where a worker lays out pieces.
cdef struct Cutter:
    FrameBurst burst
    uint8_t headers[64][MOST_CUT_HEADER_BYTES]   # BURST of them


cdef Cutter *make_cutter() noexcept nogil
cdef void discard_cutter(Cutter *cutter) noexcept nogil
cdef uint32_t write_rest_header(const Super *super, uint8_t *to) noexcept nogil
cdef uint32_t deliver_cut(
    Cutter *cutter, Super *super, PortOps *egress, uint32_t pair, const Delivery *delivery
) noexcept nogil
