"""Checksums and super-frames of the host's stack, done in software. See segmentation.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.ether cimport ETHERTYPE_IPV4, ETHERTYPE_IPV6, ether_payload, get16, put16
from fastvhost.dataplane.frame cimport BURST, FrameBurst, Chain, Segment

cdef extern from "fastvhost/dataplane/ports/checksum.h" nogil:
    uint64_t add_bytes(const uint8_t *at, uint32_t n, uint64_t sum)
    uint16_t fold(uint64_t sum)

cdef enum:
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5           # datagrams one behind the other (UDP_SEGMENT); 3, fragments of one, no kernel sends today
    GSO_ECN = 0x80
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    UDP_HEADER_BYTES = 8


cdef inline void put_sum(uint8_t *at, uint16_t checksum) noexcept nogil:
    memcpy(at, &checksum, 2)


cdef bint complete_checksum(uint8_t *frame, uint32_t bytes, uint32_t start, uint32_t offset) noexcept nogil:
    """The sum of what lies from start on, where the field holds that of the pseudo-header. False: not in the frame."""
    cdef uint16_t checksum
    if start >= bytes or bytes - start < 2 or offset > bytes - start - 2:
        return False
    checksum = fold(add_bytes(frame + start, bytes - start, 0))
    # RFC 768: 0 means none. For TCP it makes no difference.
    put_sum(frame + start + offset, checksum if checksum else 0xffff)
    return True


cdef bint begin_super(Super *super, uint8_t *frame, uint32_t bytes, const HostHeader *header) noexcept nogil:
    """Look at a super-frame's headers. False: not TCP or UDP over IP in Ethernet, or not as it should be."""
    cdef uint32_t kind = header.gso_type & ~GSO_ECN, ip, at = header.csum_start
    cdef uint32_t ethertype, protocol, shortest
    super.udp = kind == GSO_UDP_L4
    protocol = PROTOCOL_UDP if super.udp else PROTOCOL_TCP
    shortest = UDP_HEADER_BYTES if super.udp else 20
    if not super.udp and kind != GSO_TCPV4 and kind != GSO_TCPV6:
        return False
    if bytes < ETHER_HEADER_BYTES + 20 + shortest or header.gso_bytes == 0:
        return False
    ethertype = ether_payload(frame, bytes, &ip)
    super.ipv6 = ethertype == ETHERTYPE_IPV6
    if not super.udp and super.ipv6 != (kind == GSO_TCPV6):
        return False
    if super.ipv6:
        if at < ip + 40:
            return False
    elif ethertype != ETHERTYPE_IPV4 or at != ip + 4 * (frame[ip] & 15) or at < ip + 20 or frame[ip + 9] != protocol:
        return False
    if at + shortest > bytes or header.csum_offset != (6 if super.udp else 16):
        return False
    super.header_bytes = at + (shortest if super.udp else 4 * (frame[at + 12] >> 4))
    if super.header_bytes < at + shortest or super.header_bytes > bytes or super.header_bytes > MOST_HEADER_BYTES:
        return False
    super.frame, super.bytes, super.ip_at, super.transport_at = frame, bytes, ip, at
    super.piece_bytes, super.at = header.gso_bytes, 0
    return True


cdef uint32_t cut_super(Super *super, FrameBurst *burst, uint32_t n, uint8_t *arena) noexcept nogil:
    """Pieces as frames n, n+1, ... of a burst, as far as it has room; their headers go to the arena, a slot a frame.

    Returns the burst's frames. After the last piece super.frame is NULL.
    """
    cdef uint32_t left, piece
    cdef uint8_t *header
    cdef Segment *parts
    while n < BURST and super.frame != NULL:
        left = super.bytes - super.header_bytes - super.at
        piece = min(left, super.piece_bytes)
        header = arena + n * MOST_HEADER_BYTES
        parts = &burst.segments[2 * n]
        write_header(super, header, piece, piece == left)
        parts[0] = Segment(header, super.header_bytes)
        parts[1] = Segment(super.frame + super.header_bytes + super.at, piece)
        burst.frames[n] = Chain(
            data=header, bytes=super.header_bytes + piece, ticket=n, first_segment=2 * n, n_segments=2 if piece else 1
        )
        super.at += piece
        n += 1
        if piece == left:
            super.frame = NULL
    return n


cdef void write_header(const Super *super, uint8_t *to, uint32_t piece, bint last) noexcept nogil:
    """The piece's own headers: lengths, number in the IP header, what TCP counts, and both checksums."""
    cdef uint8_t *ip = to + super.ip_at
    cdef uint8_t *transport = to + super.transport_at
    cdef uint32_t transport_bytes = super.header_bytes - super.transport_at + piece
    cdef uint64_t sum
    cdef uint8_t ending[4]
    memcpy(to, super.frame, super.header_bytes)
    if super.ipv6:
        put16(ip + 4, super.header_bytes - super.ip_at - 40 + piece)
        sum = add_bytes(ip + 8, 32, 0)
    else:
        put16(ip + 2, super.header_bytes - super.ip_at + piece)
        put16(ip + 4, get16(ip + 4) + super.at // super.piece_bytes)
        put16(ip + 10, 0)
        put_sum(ip + 10, fold(add_bytes(ip, super.transport_at - super.ip_at, 0)))
        sum = add_bytes(ip + 12, 8, 0)
    ending[0], ending[1] = 0, PROTOCOL_UDP if super.udp else PROTOCOL_TCP
    put16(&ending[2], transport_bytes)
    sum = add_bytes(ending, 4, sum)
    if super.udp:
        put16(transport + 4, transport_bytes)
        put_checksum(super, transport, 6, sum, piece)
    else:
        number_tcp(super, transport, last)
        put_checksum(super, transport, 16, sum, piece)


cdef void number_tcp(const Super *super, uint8_t *tcp, bint last) noexcept nogil:
    """The sequence number, and the flags that only the first piece or only the last one has."""
    cdef uint32_t sequence = (get16(tcp + 4) << 16 | get16(tcp + 6)) + super.at
    put16(tcp + 4, sequence >> 16)
    put16(tcp + 6, sequence & 0xffff)
    if not last:
        tcp[13] &= ~TCP_FIN_PSH
    if super.at:
        tcp[13] &= ~TCP_CWR


cdef void put_checksum(
    const Super *super, uint8_t *transport, uint32_t offset, uint64_t sum, uint32_t piece
) noexcept nogil:
    """Of the pseudo-header (sum), the header that is complete but for this, and the piece's payload."""
    cdef uint16_t checksum
    put16(transport + offset, 0)
    sum = add_bytes(transport, super.header_bytes - super.transport_at, sum)
    checksum = fold(add_bytes(super.frame + super.header_bytes + super.at, piece, sum))
    put_sum(transport + offset, checksum if checksum else 0xffff)
