"""Pieces of super-frames: headers as the kernel's own segmentation makes them (RFC 9293, RFC 768). See cut.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastvhost.abi.shared_memory cimport store_release_u32
from fastvhost.abi.virtio_net cimport (
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_GSO_ECN,
    NET_HDR_GSO_TCPV6,
    NET_HDR_GSO_UDP_L4,
    NetHeader,
)
from fastvhost.dataplane.drop_reason cimport GSO_UNSUPPORTED
from fastvhost.dataplane.ether cimport (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IPV4_FRAGMENT,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_CHECKSUM_AT,
    TCP_HEADER_BYTES,
    UDP_CHECKSUM_AT,
    UDP_HEADER_BYTES,
    ether_payload,
    get16,
    put16,
)
from fastvhost.dataplane.frame cimport (
    BURST,
    MAX_SEGMENTS,
    NEED_CSUM,
    Delivery,
    FrameBurst,
    Frame,
    Head,
    Segment,
    begin_heads,
    delivery_of,
    part_of,
)
from fastvhost.dataplane.offload.tunnel cimport in_datagram, inner_frame, write_outer
from fastvhost.dataplane.tally cimport count_drops

cdef extern from "fastvhost/dataplane/offload/checksum.h" nogil:
    uint64_t add_bytes(const uint8_t *at, uint32_t n, uint64_t sum)
    uint16_t fold(uint64_t sum)

cdef enum:
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80
    # What may stand between IPv6 and TCP or UDP (RFC 8200, section 4), each as long as its second byte says.
    HOP_BY_HOP = 0
    ROUTING = 43
    DESTINATION_OPTIONS = 60


cdef Cutter *make_cutter() noexcept nogil:
    """Memory for pieces, to be given to discard_cutter(). NULL: there is none to be had."""
    # Room for segments is a megabyte of address space; memory is used only for those that are written.
    cdef Cutter *cutter = <Cutter *>malloc(sizeof(Cutter) + MAX_SEGMENTS * sizeof(Segment))
    if cutter != NULL:
        cutter.burst.segments = <Segment *>(cutter + 1)
        begin_heads(&cutter.burst)
    return cutter


cdef void discard_cutter(Cutter *cutter) noexcept nogil:
    free(cutter)


cdef uint32_t deliver_cut(
    Cutter *cutter, Super *super, PortOps *egress, uint32_t pair, const Delivery *delivery
) noexcept nogil:
    """Deliver as deliver_burst of the egress does, where that takes some of the frames only in pieces.

    A frame counts as dealt with when its last piece is. Where a frame waits with some of its pieces delivered, `super`
    says how far it came.
    """
    cdef uint32_t done = 0, run, delivered, left = CUT_SEGMENTS, n = delivery.n
    cdef Delivery whole
    while done < n:
        run = 0
        while done + run < n and not super.begun and not needs_cut(egress, delivery, done + run):
            run += 1
        if run:
            whole = part_of(delivery, done, run)
            delivered = min(run, egress.deliver_burst(egress, pair, &whole))
            done += delivered
            if delivered < run:
                break
            continue
        if not super.begun and not begin(super, delivery, &delivery.frames[done]):
            count_drops(&egress.tx[pair], GSO_UNSUPPORTED, 1)
            done += 1
            continue
        if not deliver_pieces(cutter, super, egress, pair, delivery, &delivery.frames[done], &left):
            break
        super.begun = False
        egress.tx[pair].cut += 1
        done += 1
    return done


cdef inline bint needs_cut(const PortOps *egress, const Delivery *delivery, uint32_t frame) noexcept nogil:
    return delivery.heads[delivery.frames[frame].head].needs & ~egress.accepts & CUT_NEEDS


cdef bint begin(Super *super, const Delivery *delivery, const Frame *frame) noexcept nogil:
    """Read a super-frame's headers. False: it is not TCP or UDP over IP in Ethernet, or not as it should be."""
    cdef Super before = super[0]
    cdef const Head *head = &delivery.heads[frame.head]
    cdef uint32_t kind = head.net.gso_type & ~<uint32_t>NET_HDR_GSO_ECN
    cdef uint32_t at = head.net.csum_start, there = min(frame.bytes, <uint32_t>MOST_CUT_HEADER_BYTES), shortest
    super.forgotten = False
    super.udp, super.ecn = kind == NET_HDR_GSO_UDP_L4, head.net.gso_type & NET_HDR_GSO_ECN != 0
    shortest = UDP_HEADER_BYTES if super.udp else TCP_HEADER_BYTES
    if head.net.csum_offset != (UDP_CHECKSUM_AT if super.udp else TCP_CHECKSUM_AT):
        return False
    store_release_u32(&super.reading, 1)
    copy_start(super.header, delivery, frame, there)
    store_release_u32(&super.reading, 0)
    super.bytes, super.transport_at, super.piece_bytes, super.at = frame.bytes, at, head.net.gso_size, 0
    if at + shortest > there or not find_ip(super, kind):
        return False
    super.header_bytes = at + (shortest if super.udp else 4 * (super.header[at + 12] >> 4))
    super.begun = at + shortest <= super.header_bytes <= there
    if before.forgotten and is_same(super, &before):
        super.at = before.at
    super.segment = super.offset = 0
    if super.begun:
        move_on(super, delivery, frame, super.header_bytes + super.at)
    return super.begun


cdef bint is_same(const Super *super, const Super *before) noexcept nogil:
    """Whether a frame is the one that its port took back to its ring: of the same length, with the same headers."""
    return (
        super.bytes == before.bytes and super.header_bytes == before.header_bytes
        and super.piece_bytes == before.piece_bytes
        and memcmp(super.header, before.header, super.header_bytes) == 0
    )


cdef bint find_ip(Super *super, uint32_t kind) noexcept nogil:
    """Whether IP is of the right version and as long as the frame, and TCP or UDP begins where the head says."""
    cdef const uint8_t *header = super.header
    cdef uint32_t protocol = PROTOCOL_UDP if super.udp else PROTOCOL_TCP
    cdef uint32_t ip = 0, there = min(super.bytes, <uint32_t>MOST_CUT_HEADER_BYTES), inner = 0, ethertype
    if in_datagram(header, there, super.transport_at, &super.tunnel):
        inner = inner_frame(header, there, super.bytes, &super.tunnel)
        if inner == 0:
            return False
    ethertype = ether_payload(header + inner, there - inner, &ip)
    ip += inner
    super.ip_at, super.ipv6 = ip, ethertype == ETHERTYPE_IPV6
    if not super.udp and super.ipv6 != (kind == NET_HDR_GSO_TCPV6):
        return False
    if super.ipv6:
        return (
            header[ip] >> 4 == 6
            and get16(header + ip + 4) == super.bytes - ip - IPV6_HEADER_BYTES
            and end_of_extensions(super, protocol) == super.transport_at
        )
    return (
        ethertype == ETHERTYPE_IPV4
        and super.transport_at >= ip + IPV4_HEADER_BYTES
        and super.transport_at == ip + 4 * (header[ip] & 15)
        and header[ip] >> 4 == 4
        and header[ip + 9] == protocol
        and get16(header + ip + 2) == super.bytes - ip
        and get16(header + ip + 6) & IPV4_FRAGMENT == 0
    )


cdef uint32_t end_of_extensions(const Super *super, uint32_t protocol) noexcept nogil:
    """Where what follows IPv6 and its extension headers begins; 0: it is not this protocol, or not in the headers."""
    cdef const uint8_t *header = <const uint8_t *>super.header
    cdef uint32_t at = super.ip_at + IPV6_HEADER_BYTES, next = header[super.ip_at + 6]
    while at < super.transport_at and (next == HOP_BY_HOP or next == ROUTING or next == DESTINATION_OPTIONS):
        next = header[at]
        at += 8 * (header[at + 1] + 1)
    return at if next == protocol else 0


cdef void copy_start(uint8_t *to, const Delivery *delivery, const Frame *frame, uint32_t bytes) noexcept nogil:
    """The first bytes of a frame, each read once."""
    cdef uint32_t left = bytes, piece
    cdef const Segment *segment = &delivery.segments[frame.first_segment]
    if frame.n_segments == 1:
        memcpy(to, frame.data, bytes)
        return
    while left:
        piece = min(left, segment.bytes)
        memcpy(to, segment.data, piece)
        to += piece
        left -= piece
        segment += 1


# Where a piece's payload begins in a frame's segments.
cdef struct Place:
    const Segment *segment
    uint32_t offset


cdef Place rest_of(const Super *super, const Delivery *delivery, const Frame *frame, Segment *alone) noexcept nogil:
    if frame.n_segments == 1:
        alone[0] = Segment(frame.data, frame.bytes)
        return Place(alone, super.offset)
    return Place(&delivery.segments[frame.first_segment + super.segment], super.offset)


cdef void move_on(Super *super, const Delivery *delivery, const Frame *frame, uint32_t bytes) noexcept nogil:
    """The rest begins so many bytes later."""
    cdef const Segment *segments = &delivery.segments[frame.first_segment]
    super.offset += bytes
    while frame.n_segments != 1 and super.offset and super.offset >= segments[super.segment].bytes:
        super.offset -= segments[super.segment].bytes
        super.segment += 1


cdef bint deliver_pieces(
    Cutter *cutter, Super *super, PortOps *egress, uint32_t pair, const Delivery *delivery, const Frame *frame,
    uint32_t *left
) noexcept nogil:
    """Deliver the pieces that are left of a frame. False: some have to wait. left: segments that this visit may use."""
    cdef uint32_t n, delivered, i, bytes, payload = super.bytes - super.header_bytes
    cdef Delivery pieces
    while True:
        if left[0] == 0:
            egress.tx[pair].spent += 1
            return False
        n = cut(cutter, super, delivery, frame, left[0])
        left[0] -= min(left[0], cutter.burst.n_segments)
        pieces = delivery_of(&cutter.burst, 0, n)
        delivered = min(n, egress.deliver_burst(egress, pair, &pieces))
        egress.tx[pair].segmented += delivered
        bytes = 0
        for i in range(delivered):
            bytes += cutter.burst.frames[i].bytes - super.header_bytes
        super.at += bytes
        move_on(super, delivery, frame, bytes)
        if super.at >= payload and delivered == n:
            return True
        if delivered < n:
            return False


cdef uint32_t cut(
    Cutter *cutter, const Super *super, const Delivery *delivery, const Frame *frame, uint32_t segments
) noexcept nogil:
    """As many pieces as a burst and so many segments hold, one at least. Returns how many."""
    cdef FrameBurst *pieces = &cutter.burst
    cdef uint32_t n = 0, left = super.bytes - super.header_bytes - super.at, at = super.at, piece, part
    cdef uint32_t used = 0, first
    cdef uint8_t *header
    cdef Segment alone
    cdef Place place = rest_of(super, delivery, frame, &alone)
    pieces.heads[1] = Head(
        NetHeader(
            NET_HDR_F_NEEDS_CSUM, 0, <uint16_t>super.header_bytes, 0, <uint16_t>super.transport_at,
            UDP_CHECKSUM_AT if super.udp else TCP_CHECKSUM_AT, 1,
        ),
        NEED_CSUM,
    )
    pieces.n_heads, pieces.needs = 1, NEED_CSUM
    while n < BURST and (n == 0 or used < segments):
        piece = min(left, super.piece_bytes)
        # In the worst case each byte of a piece is a segment, and its header is one more.
        if n and used + 1 + piece > MAX_SEGMENTS:
            break
        first, header = used, &cutter.headers[n][0]
        write_header(super, header, at, piece, piece == left)
        pieces.segments[used] = Segment(header, super.header_bytes)
        used += 1
        pieces.frames[n].bytes = super.header_bytes + piece
        at += piece
        left -= piece
        while piece:
            while place.offset == place.segment.bytes:
                place = Place(place.segment + 1, 0)
            part = min(piece, place.segment.bytes - place.offset)
            pieces.segments[used] = Segment(place.segment.data + place.offset, part)
            used += 1
            place.offset += part
            piece -= part
        pieces.frames[n].data, pieces.frames[n].first_segment = header, first
        pieces.frames[n].n_segments, pieces.frames[n].head = <uint16_t>(used - first), 1
        n += 1
        if left == 0:
            break
    pieces.n_frames, pieces.n_segments = n, used
    return n


cdef uint32_t write_rest_header(const Super *super, uint8_t *to) noexcept nogil:
    """The headers of what is left of a super-frame, which is one again. Returns how long they are."""
    write_header(super, to, super.at, super.bytes - super.header_bytes - super.at, True)
    return super.header_bytes


cdef void write_header(const Super *super, uint8_t *to, uint32_t at, uint32_t piece, bint last) noexcept nogil:
    """A piece's own headers: lengths, number in the IP header, what TCP counts, and the sum of the pseudo-header."""
    cdef uint8_t *ip = to + super.ip_at
    cdef uint8_t *transport = to + super.transport_at
    cdef uint32_t transport_bytes = super.header_bytes - super.transport_at + piece, number = at // super.piece_bytes
    cdef uint64_t sum
    cdef uint8_t ending[4]
    cdef uint16_t checksum
    memcpy(to, super.header, super.header_bytes)
    if super.ipv6:
        put16(ip + 4, super.header_bytes - super.ip_at - IPV6_HEADER_BYTES + piece)
        sum = add_bytes(ip + 8, 32, 0)
    else:
        put16(ip + 2, super.header_bytes - super.ip_at + piece)
        put16(ip + 4, get16(ip + 4) + number)
        put16(ip + 10, 0)
        checksum = fold(add_bytes(ip, super.transport_at - super.ip_at, 0))
        memcpy(ip + 10, &checksum, 2)
        sum = add_bytes(ip + 12, 8, 0)
    ending[0], ending[1] = 0, PROTOCOL_UDP if super.udp else PROTOCOL_TCP
    put16(&ending[2], transport_bytes)
    checksum = ~fold(add_bytes(ending, 4, sum))
    if super.udp:
        put16(transport + 4, transport_bytes)
        memcpy(transport + UDP_CHECKSUM_AT, &checksum, 2)
    else:
        number_tcp(transport, at, last, super.ecn)
        memcpy(transport + TCP_CHECKSUM_AT, &checksum, 2)
    if super.tunnel.udp_at:
        write_outer(
            to, &super.tunnel, super.header_bytes + piece, number, super.transport_at,
            super.transport_at + (UDP_CHECKSUM_AT if super.udp else TCP_CHECKSUM_AT),
        )


cdef void number_tcp(uint8_t *tcp, uint32_t at, bint last, bint ecn) noexcept nogil:
    """The sequence number, and the flags that only the first piece or only the last one has (RFC 9293, RFC 3168).

    Without GSO_ECN, which RFC 3168 needs (virtio 1.2, section 5.1.6.2.1), CWR is part of a counter, which is the same
    in all pieces (RFC 9768).
    """
    cdef uint32_t sequence = (get16(tcp + 4) << 16 | get16(tcp + 6)) + at
    put16(tcp + 4, sequence >> 16)
    put16(tcp + 6, sequence & 0xffff)
    if not last:
        tcp[13] &= ~TCP_FIN_PSH
    if at and ecn:
        tcp[13] &= ~TCP_CWR
