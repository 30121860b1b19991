"""Frames and virtio-net chains: taking the header off what a guest sent, and putting frames into what it posted.

Virtio 1.2, sections 5.1.6.2 and 5.1.6.3. No offload is negotiated, so a header that asks for one is refused with a
counted drop, and every header written says "plain frame". The device must not rely on how the driver cuts header and
payload into descriptors (section 2.7.4): any cut works here, the usual ones fast.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastvhost.abi.shared_memory cimport read_once_u16_anywhere, write_u64_anywhere
from fastvhost.abi.virtio_net cimport (
    ETHER_HEADER_BYTES,
    MAX_FRAME_BYTES,
    NET_HDR_BYTES,
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_GSO_TYPE_OFFSET,
    NET_HDR_NUM_BUFFERS_OFFSET,
)
from fastvhost.dataplane.drop_reason cimport BAD_DESCRIPTOR, GSO_UNSUPPORTED, OVERSIZE, RUNT
from fastvhost.dataplane.frame cimport BURST, Burst, Chain, Frame, Segment
from fastvhost.dataplane.split_ring cimport (
    RING_OK,
    RING_RECEIVE_CHAIN_TOO_SHORT,
    SplitRing,
    take,
)

cdef extern from "fastvhost/dataplane/copy.h" nogil:
    struct frame_copy:
        uint8_t *to
        const uint8_t *from_ "from"
        uint32_t bytes
    void choose_copy_level()
    void copy_frames(const frame_copy *list, uint32_t n, uint32_t header_bytes)
    const char *copy_level_name

choose_copy_level()


def copy_level() -> str:
    """The CPU level in use for the copy: "plain", "avx2" or "avx512". FASTVHOST_CPU_LEVEL lowers it."""
    return copy_level_name.decode()


# A place in a chain's bytes.
cdef struct Cursor:
    const Segment *segment
    uint32_t offset


cdef Cursor cursor_of(const Chain *chain, const Segment *segments, Segment *alone) noexcept nogil:
    """The start of a chain. A chain of one segment has none in the pool; it gets the one lent by the caller."""
    if chain.n_segments == 1:
        alone[0] = Segment(chain.data, chain.bytes)
        return Cursor(alone, 0)
    return Cursor(&segments[chain.first_segment], 0)


cdef uint32_t copy_at(Cursor *to, Cursor *source, uint32_t bytes) noexcept nogil:
    """Copy between two places in chains; both move on. The caller knows that both hold enough."""
    cdef uint32_t left = bytes, piece
    while left:
        while to.offset == to.segment.bytes:
            to[0] = Cursor(to.segment + 1, 0)
        while source.offset == source.segment.bytes:
            source[0] = Cursor(source.segment + 1, 0)
        piece = min(left, min(to.segment.bytes - to.offset, source.segment.bytes - source.offset))
        memcpy(to.segment.data + to.offset, source.segment.data + source.offset, piece)
        to.offset += piece
        source.offset += piece
        left -= piece
    return bytes


cdef void strip_headers(Burst *burst, uint32_t header_bytes, Tally *tally) noexcept nogil:
    """Turn the chains of a burst into frames, in place; what is none is counted and left out.

    Chains that are left out are finished together with the frame behind them (Chain.chain_end); those behind the last
    frame, together with it.
    """
    cdef uint32_t i, kept = 0
    cdef uint64_t total = 0
    cdef Chain *chain
    cdef Frame *frame
    cdef uint16_t asked
    for i in range(burst.n_chains):
        chain = &burst.frames[i]
        burst.heads[i] = chain.head
        if chain.bytes < header_bytes + ETHER_HEADER_BYTES:
            tally.dropped[<int>RUNT] += 1
            continue
        if chain.bytes > header_bytes + MAX_FRAME_BYTES:
            tally.dropped[<int>OVERSIZE] += 1
            continue
        frame = &burst.frames[kept]
        if chain.n_segments == 1:
            asked = read_once_u16_anywhere(chain.data)
            frame.data = chain.data + header_bytes
            frame.bytes = chain.bytes - header_bytes
            frame.n_segments = 1
        else:
            frame[0] = chain[0]
            asked = strip_in_pieces(frame, burst.segments, header_bytes)
        # flags in the low byte, gso_type in the high one
        if asked & (NET_HDR_F_NEEDS_CSUM | 0xff00):
            tally.dropped[<int>GSO_UNSUPPORTED] += 1
            continue
        frame.chain_end = i + 1
        total += frame.bytes
        kept += 1
    if kept:
        burst.frames[kept - 1].chain_end = burst.n_chains
    burst.n_frames = kept
    tally.frames += kept
    tally.bytes += total


cdef uint16_t strip_in_pieces(Frame *frame, Segment *segments, uint32_t header_bytes) noexcept nogil:
    """Take the header off a chain of several segments, wherever it is cut. Returns its first two bytes."""
    cdef uint8_t header[NET_HDR_BYTES]
    cdef Segment target = Segment(&header[0], header_bytes)
    cdef Cursor to = Cursor(&target, 0)
    cdef Segment *first = &segments[frame.first_segment]
    cdef Cursor source = Cursor(first, 0)
    cdef uint32_t used
    copy_at(&to, &source, header_bytes)
    if source.offset == source.segment.bytes:
        source = Cursor(source.segment + 1, 0)
    used = <uint32_t>(source.segment - first)
    first[used].data += source.offset
    first[used].bytes -= source.offset
    frame.first_segment += used
    frame.n_segments -= used
    frame.bytes -= header_bytes
    if frame.n_segments == 1:
        frame.data = first[used].data
    return header[0] | <uint16_t>header[NET_HDR_GSO_TYPE_OFFSET] << 8


cdef uint32_t deliver(
    SplitRing *ring, uint32_t header_bytes, bint mergeable, NetScratch *scratch,
    const Frame *frames, const Segment *segments, uint32_t n, Tally *tally
) noexcept nogil:
    """Copy frames into the receiveq's chains and stage them as used. Returns how many frames are dealt with.

    Fewer than n: the ring has no more chains now, or broke. A frame that fits in no buffer is dropped and counted.
    """
    cdef frame_copy copies[BURST]
    cdef uint32_t n_copies = 0, n_segments = 0, chain = 0, i = 0
    cdef uint32_t n_chains = take(ring, 0, scratch.chains, min(n, <uint32_t>BURST), scratch.segments, &n_segments)
    cdef uint16_t mask = ring.size - 1, at = ring.next_used
    cdef uint8_t *used = <uint8_t *>ring.used.ring
    cdef uint64_t total = 0
    cdef uint32_t length, spread, delivered = 0
    cdef const Frame *frame
    cdef const Chain *room

    while i < n and n_copies < BURST:
        if chain == n_chains:
            if ring.status != RING_OK or chain == 0:
                break
            # frames in several buffers used up what was taken for this burst
            n_chains += take(
                ring, chain, scratch.chains + chain, min(n - i, MAX_RECEIVE_CHAINS - chain),
                scratch.segments, &n_segments,
            )
            if chain == n_chains:
                break
        frame = &frames[i]
        room = &scratch.chains[chain]
        length = frame.bytes + header_bytes
        if length <= room.bytes and frame.n_segments == 1 and room.n_segments == 1:
            copies[n_copies] = frame_copy(room.data, frame.data, frame.bytes)
            n_copies += 1
            write_u64_anywhere(
                used + 8 * <uint32_t>(<uint16_t>(at + chain) & mask), room.head | <uint64_t>length << 32
            )
            chain += 1
        else:
            spread = chains_for(ring, header_bytes, mergeable, scratch, chain, &n_chains, &n_segments, length)
            if spread == NO_ROOM:
                break
            if spread == TOO_LONG:
                tally.dropped[<int>OVERSIZE] += 1
                i += 1
                continue
            scatter(ring, header_bytes, scratch, chain, spread, frame, segments)
            chain += spread
        total += frame.bytes
        delivered += 1
        i += 1

    copy_frames(copies, n_copies, header_bytes)
    if ring.status != RING_OK:
        tally.dropped[<int>BAD_DESCRIPTOR] += 1
    ring.next_avail += chain
    ring.next_used = at + chain
    tally.frames += delivered
    tally.bytes += total
    return i


cdef enum Spread:
    NO_ROOM = 0
    TOO_LONG = 0xffffffff


cdef uint32_t chains_for(
    SplitRing *ring, uint32_t header_bytes, bint mergeable, NetScratch *scratch,
    uint32_t chain, uint32_t *n_chains, uint32_t *n_segments, uint32_t length
) noexcept nogil:
    """How many chains, from `chain` on, hold a frame of this length with its header; or NO_ROOM, or TOO_LONG.

    The header stands in the first chain whole; further chains hold payload only (section 5.1.6.4).
    """
    cdef uint32_t count = 0, more
    cdef uint64_t bytes = 0
    while bytes < length:
        if chain + count == n_chains[0]:
            if chain + count == MAX_RECEIVE_CHAINS:
                return TOO_LONG if chain == 0 else NO_ROOM
            more = take(
                ring, chain + count, scratch.chains + chain + count, 1, scratch.segments, n_segments
            )
            if more == 0:
                # All that the ring can hold is there and does not do.
                return TOO_LONG if count == ring.size else NO_ROOM
            n_chains[0] += more
        if count == 0 and scratch.chains[chain].bytes < header_bytes:
            ring.status = RING_RECEIVE_CHAIN_TOO_SHORT
            return NO_ROOM
        bytes += scratch.chains[chain + count].bytes
        count += 1
        if not mergeable and bytes < length:
            return TOO_LONG
    return count


cdef void scatter(
    SplitRing *ring, uint32_t header_bytes, NetScratch *scratch, uint32_t chain, uint32_t spread,
    const Frame *frame, const Segment *segments
) noexcept nogil:
    """Copy one frame into `spread` chains and stage them as used."""
    cdef uint8_t header[NET_HDR_BYTES]
    cdef Segment header_segment = Segment(&header[0], header_bytes), frame_alone, room_alone
    cdef Cursor header_at = Cursor(&header_segment, 0), to, source = cursor_of(frame, segments, &frame_alone)
    cdef uint16_t mask = ring.size - 1
    cdef uint8_t *used = <uint8_t *>ring.used.ring
    cdef uint32_t left = frame.bytes, i, written, room
    cdef const Chain *target
    memset(header, 0, sizeof(header))
    header[NET_HDR_NUM_BUFFERS_OFFSET] = spread & 0xff
    header[NET_HDR_NUM_BUFFERS_OFFSET + 1] = spread >> 8
    for i in range(spread):
        target = &scratch.chains[chain + i]
        to = cursor_of(target, scratch.segments, &room_alone)
        written = copy_at(&to, &header_at, header_bytes) if i == 0 else 0
        room = min(left, target.bytes - written)
        copy_at(&to, &source, room)
        left -= room
        write_u64_anywhere(
            used + 8 * <uint32_t>(<uint16_t>(ring.next_used + chain + i) & mask),
            target.head | <uint64_t>(written + room) << 32,
        )
