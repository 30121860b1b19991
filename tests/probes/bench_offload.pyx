"""What offload/ does for an egress that takes less, in loops of their own, as bench_dataplane.pyx does it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastvhost.abi.virtio_net cimport NET_HDR_F_NEEDS_CSUM, NET_HDR_GSO_TCPV4, NetHeader
from fastvhost.dataplane.frame cimport (
    BURST,
    NEED_CSUM,
    NEED_TSO4,
    Chain,
    Delivery,
    FrameBurst,
    Head,
    Segment,
    begin_heads,
    delivery_of,
)
from fastvhost.dataplane.offload.cut cimport Cutter, Super, deliver_cut, discard_cutter, make_cutter
from fastvhost.dataplane.offload.summed cimport Sum, begin_sum, copy_summed, store_checksum
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.tally cimport Tally

from fastvhost.dataplane.receiveq import copy_level

cdef extern from "fastvhost/dataplane/offload/checksum.h" nogil:
    void choose_sum_level(const char *level)

cdef bytes level = copy_level().encode()
choose_sum_level(level)
FRAMES = BURST

cdef enum:
    # Of TCP behind Ethernet and IPv4.
    TCP_AT = 34
    TCP_CHECKSUM_AT = 16
    MOST_PIECE_BYTES = 2048


def copy_summed_bursts(uint32_t n_bytes, int turns):
    """Copy 64 frames, `turns` times, and fill in the checksum of TCP. Returns that of the last; all its bytes are 1."""
    cdef uint64_t stride = (n_bytes + 75) // 64 * 64 | 64
    cdef uint8_t *memory = <uint8_t *>malloc(2 * BURST * stride)
    cdef Head head = Head(NetHeader(NET_HDR_F_NEEDS_CSUM, 0, 0, 0, TCP_AT, TCP_CHECKSUM_AT, 1), NEED_CSUM)
    cdef uint8_t *to = NULL
    cdef Sum sum
    cdef int _turn, i
    if memory == NULL:
        raise MemoryError
    memset(memory, 1, 2 * BURST * stride)
    with nogil:
        for _turn in range(turns):
            for i in range(BURST):
                to = memory + i * stride
                memcpy(to, &head.net, sizeof(NetHeader))
                to += sizeof(NetHeader)
                begin_sum(&sum, &head)
                copy_summed(to, memory + (BURST + i) * stride + 12, n_bytes, &sum)
                store_checksum(&sum)
    checksum = to[TCP_AT + TCP_CHECKSUM_AT] << 8 | to[TCP_AT + TCP_CHECKSUM_AT + 1]
    free(memory)
    return checksum


cdef uint32_t take_pieces(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    """An egress without end. Where its state is memory, each piece is copied there and its checksum filled in."""
    cdef uint8_t *to = <uint8_t *>port.state
    cdef const Segment *segment
    cdef Sum sum
    cdef uint32_t i, k
    if to == NULL:
        return delivery.n
    for i in range(delivery.n):
        to = <uint8_t *>port.state + i * MOST_PIECE_BYTES
        begin_sum(&sum, &delivery.heads[delivery.frames[i].head])
        for k in range(delivery.frames[i].n_segments):
            segment = &delivery.segments[delivery.frames[i].first_segment + k]
            copy_summed(to, segment.data, segment.bytes, &sum)
            to += segment.bytes
        store_checksum(&sum)
    return delivery.n


def cut_again(bytes frame, uint32_t gso_size, bint copied, int turns):
    """Cut one super-frame of TCP over IPv4, `turns` times. Returns how many pieces the last turn made.

    copied: they are copied and summed as well; else only laid out. frame: at most 2048 bytes a piece, headers included.
    """
    cdef FrameBurst *burst = <FrameBurst *>malloc(sizeof(FrameBurst))
    cdef Cutter *cutter = make_cutter()
    cdef uint8_t *memory = <uint8_t *>malloc(BURST * MOST_PIECE_BYTES)
    cdef const uint8_t *data = frame
    cdef Delivery delivery
    cdef Super super
    cdef PortOps egress
    cdef Tally tally
    cdef uint64_t before = 0
    cdef int _turn
    if burst == NULL or cutter == NULL or memory == NULL:
        raise MemoryError
    memset(memory, 1, BURST * MOST_PIECE_BYTES)
    memset(&super, 0, sizeof(super))
    memset(&egress, 0, sizeof(egress))
    memset(&tally, 0, sizeof(tally))
    egress.tx, egress.deliver_burst, egress.state = &tally, take_pieces, memory if copied else NULL
    begin_heads(burst)
    burst.segments = NULL
    burst.n_frames, burst.n_heads, burst.needs = 1, 1, NEED_CSUM | NEED_TSO4
    burst.heads[1] = Head(
        NetHeader(NET_HDR_F_NEEDS_CSUM, NET_HDR_GSO_TCPV4, 0, <uint16_t>gso_size, TCP_AT, TCP_CHECKSUM_AT, 1),
        burst.needs,
    )
    burst.frames[0] = Chain(<uint8_t *>data, <uint32_t>len(frame), 0, 0, 1, 1)
    delivery = delivery_of(burst, 0, 1)
    with nogil:
        for _turn in range(turns):
            before = tally.segmented
            while not deliver_cut(cutter, &super, &egress, 0, &delivery):
                pass
    free(memory)
    free(burst)
    discard_cutter(cutter)
    return tally.segmented - before
