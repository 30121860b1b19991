"""What the host's stack leaves to the network card: checksums, and cutting super-frames. Virtio 1.2, section 5.1.6.2.

A super-frame is cut without copying its payload: each piece is a header of its own and a part of what lies in the ring.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastvhost.dataplane.frame cimport FrameBurst


# struct virtio_net_hdr as the kernel writes it in front of a frame: the host's byte order (packet(7), PACKET_VNET_HDR).
cdef packed struct HostHeader:
    uint8_t flags
    uint8_t gso_type
    uint16_t header_bytes
    uint16_t gso_bytes
    uint16_t csum_start
    uint16_t csum_offset


# A super-frame on its way, cut as bursts have room.
cdef struct Super:
    uint8_t *frame           # NULL: none
    uint32_t bytes
    uint32_t header_bytes    # Ethernet to TCP or UDP
    uint32_t ip_at
    uint32_t transport_at
    uint32_t piece_bytes     # payload of each but the last
    uint32_t at              # payload cut so far
    bint ipv6
    bint udp


cdef enum:
    # Ethernet, two VLAN tags, IP and TCP with all their options.
    MOST_HEADER_BYTES = 256


cdef bint complete_checksum(uint8_t *frame, uint32_t bytes, uint32_t start, uint32_t offset) noexcept nogil
cdef bint begin_super(Super *super, uint8_t *frame, uint32_t bytes, const HostHeader *header) noexcept nogil
cdef uint32_t cut_super(Super *super, FrameBurst *burst, uint32_t n, uint8_t *arena) noexcept nogil
