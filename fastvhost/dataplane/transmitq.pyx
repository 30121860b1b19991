"""From the chains of a transmitq to frames: the virtio-net header is taken off. Virtio 1.2, section 5.1.6.2.

A header that asks for something becomes the frame's head, if its driver negotiated that; else it is refused with a
counted drop. The device must not rely on how the driver spreads header and payload over descriptors (section 2.7.4):
any way works here, the usual ones fast.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport read_once_u16_anywhere, read_once_u64_anywhere
from fastvhost.abi.virtio_net cimport (
    ETHER_HEADER_BYTES,
    MAX_FRAME_BYTES,
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_GSO_TYPE_OFFSET,
    NET_HDR_LEGACY_BYTES,
    NetHeader,
)
from fastvhost.dataplane.cursor cimport Cursor, copy_at
from fastvhost.dataplane.drop_reason cimport GSO_UNSUPPORTED, N_DROP_REASONS, OVERSIZE, RUNT, DropReason
from fastvhost.dataplane.frame cimport NEED_CSUM, Chain, Done, Frame, FrameBurst, Segment
from fastvhost.dataplane.offload.header cimport bytes_with_sum, give_head, next_head, write_sum_head
from fastvhost.dataplane.tally cimport count_drops

# The header's first two bytes: flags, then gso_type. What in them asks for something.
cdef enum:
    OFFLOAD_ASKED = NET_HDR_F_NEEDS_CSUM | 0xff << 8 * NET_HDR_GSO_TYPE_OFFSET


cdef uint32_t strip_headers(
    FrameBurst *burst, uint32_t n, uint32_t header_bytes, uint32_t allowed, Tally *tally
) noexcept nogil:
    """Turn the n chains of a burst into frames, in place, up to the first that holds none. allowed: what they may need.

    If the first chain is no frame, the burst gets none: the chains up to the first frame are counted as dropped, and
    are to be completed now, by the caller. A burst never mixes frames and dropped chains. Returns how many were dealt
    with.
    """
    cdef uint32_t i, n_headed, shortest = header_bytes + ETHER_HEADER_BYTES
    cdef uint64_t total = 0
    cdef Chain *chain
    burst.n_heads = burst.needs = 0  # what was read of frames that were handed back is read again
    # Nearly always each is one buffer, and a frame that asks for nothing, or for its checksum.
    i = strip_in_one_buffer(burst, 0, n, header_bytes, False, &total)
    if i < n and allowed:
        i = strip_in_one_buffer(burst, i, n, header_bytes, True, &total)
    n_headed = i
    # The next ones have several buffers, with the header whole in the first, or ask for something else.
    while i < n:
        chain = &burst.frames[i]
        if chain.bytes - shortest > <uint32_t>(MAX_FRAME_BYTES - ETHER_HEADER_BYTES):
            break
        if not strip_whole_header(burst, chain, header_bytes, allowed):
            break
        burst.done[i] = Done(chain.ticket, 0)
        total += chain.bytes
        i += 1
    tally.frames += i
    tally.bytes += total
    burst.n_frames = i
    burst.n_headed = n_headed
    return i if i == n else strip_one_by_one(burst, n, header_bytes, allowed, tally)


cdef inline uint32_t strip_in_one_buffer(
    FrameBurst *burst, uint32_t first, uint32_t n, uint32_t header_bytes, bint has_sums, uint64_t *total
) noexcept nogil:
    """The same for frames in one buffer that ask for nothing or, where has_sums is set, for their checksum.

    total: their bytes are added. Returns the first frame that is no such.
    """
    cdef uint32_t length, least = 0xffffffff, n_heads = 0, asked
    cdef uint64_t fields, last = 0, n_bytes = 0
    cdef Chain *chain = &burst.frames[first]
    cdef const Chain *end = &burst.frames[n]
    cdef Done *done = &burst.done[first]
    while chain != end:
        length = chain.bytes - header_bytes
        if chain.n_segments != 1 or length - ETHER_HEADER_BYTES > <uint32_t>(MAX_FRAME_BYTES - ETHER_HEADER_BYTES):
            break
        asked = read_once_u16_anywhere(chain.data) & OFFLOAD_ASKED
        if asked:
            if not has_sums or asked != NET_HDR_F_NEEDS_CSUM:
                break
            fields = read_once_u64_anywhere(chain.data + 2)
            # Nearly all of them have the same head, which stands in the burst once.
            if fields != last or least > length:
                last, least = fields, bytes_with_sum(fields)
                if length < least:
                    break
                n_heads += 1
                write_sum_head(&burst.heads[n_heads], fields)
            chain.head = <uint16_t>n_heads
        done[0] = Done(chain.ticket, 0)
        chain.data += header_bytes
        chain.bytes = length
        n_bytes += length
        chain += 1
        done += 1
    if n_heads:
        burst.n_heads, burst.needs = n_heads, NEED_CSUM
    total[0] += n_bytes
    return <uint32_t>(chain - &burst.frames[0])


cdef inline bint strip_whole_header(
    FrameBurst *burst, Chain *chain, uint32_t header_bytes, uint32_t allowed
) noexcept nogil:
    """Take the header off a chain, if it stands whole in the first segment and asks for nothing but what is allowed."""
    cdef Segment alone = Segment(chain.data, chain.bytes)
    cdef Segment *first = &alone if chain.n_segments == 1 else &burst.segments[chain.first_segment]
    if first.bytes < header_bytes:
        return False
    if read_once_u16_anywhere(first.data) & OFFLOAD_ASKED:
        memcpy(&next_head(burst).net, first.data, NET_HDR_LEGACY_BYTES)
        if not give_head(burst, chain, chain.bytes - header_bytes, allowed):
            return False
    chain.bytes -= header_bytes
    if first.bytes > header_bytes:
        first.data += header_bytes
        first.bytes -= header_bytes
    else:
        first += 1
        chain.first_segment += 1
        chain.n_segments -= 1
    if chain.n_segments == 1:
        chain.data = first.data
    return True


cdef uint32_t strip_one_by_one(
    FrameBurst *burst, uint32_t n, uint32_t header_bytes, uint32_t allowed, Tally *tally
) noexcept nogil:
    """The same from the first chain on that is no frame yet, for those in pieces too."""
    cdef uint32_t i
    cdef DropReason reason
    for i in range(burst.n_frames, n):
        reason = make_frame(burst, &burst.frames[i], header_bytes, allowed)
        if burst.n_frames != (i if reason == N_DROP_REASONS else 0):
            return i    # a frame behind chains that hold none, or such a chain behind frames
        burst.done[i] = Done(burst.frames[i].ticket, 0)
        if reason != N_DROP_REASONS:
            count_drops(tally, reason, 1)
            continue
        burst.n_frames = i + 1
        tally.frames += 1
        tally.bytes += burst.frames[i].bytes
    return n


cdef DropReason make_frame(FrameBurst *burst, Chain *chain, uint32_t header_bytes, uint32_t allowed) noexcept nogil:
    """Take the header off a chain. Why it is no frame, or N_DROP_REASONS."""
    cdef NetHeader *net = &next_head(burst).net
    if chain.bytes < header_bytes + ETHER_HEADER_BYTES:
        return RUNT
    if chain.bytes > header_bytes + MAX_FRAME_BYTES:
        return OVERSIZE
    if chain.n_segments == 1:
        memcpy(net, chain.data, NET_HDR_LEGACY_BYTES)
        chain.data += header_bytes
        chain.bytes -= header_bytes
    else:
        strip_in_pieces(chain, burst.segments, header_bytes, net)
    return N_DROP_REASONS if give_head(burst, chain, chain.bytes, allowed) else GSO_UNSUPPORTED


cdef void strip_in_pieces(Frame *frame, Segment *segments, uint32_t header_bytes, NetHeader *net) noexcept nogil:
    """Take the header off a chain of several segments, wherever it is cut."""
    cdef Segment target = Segment(<uint8_t *>net, header_bytes)
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
