"""Frames and virtio-net chains: taking the header off what a guest sent, and putting frames into what it posted.

Virtio 1.2, sections 5.1.6.2 and 5.1.6.3. No offload is negotiated, so a header that asks for one is refused with a
counted drop, and every header written says "plain frame". The device must not rely on how the driver cuts header and
payload into descriptors (section 2.7.4): any cut works here, the usual ones fast.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastvhost.abi.shared_memory cimport prefetch_write, read_once_u16_anywhere, store_release_u32
from fastvhost.abi.virtio_net cimport (
    ETHER_HEADER_BYTES,
    MAX_FRAME_BYTES,
    NET_HDR_BYTES,
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_GSO_TYPE_OFFSET,
    NET_HDR_NUM_BUFFERS_OFFSET,
)
from fastvhost.dataplane.debug cimport DEBUG, check, poison
from fastvhost.dataplane.drop_reason cimport BAD_DESCRIPTOR, GSO_UNSUPPORTED, N_DROP_REASONS, OVERSIZE, RUNT, DropReason
from fastvhost.dataplane.frame cimport BURST, VISIT_PIECES, FrameBurst, Chain, Done, Frame, Segment
from fastvhost.dataplane.guest_memory cimport holds_host
from fastvhost.dataplane.ring cimport RING_OK, RING_RECEIVE_CHAIN_TOO_SHORT, Ring
from fastvhost.dataplane.tally cimport count_drops

cdef extern from "fastvhost/dataplane/copy.h" nogil:
    struct frame_copy:
        uint8_t *to
        const uint8_t *from_ "from"
        uint32_t bytes
        uint32_t header_bytes
    void choose_copy_level()
    void copy_frames(const frame_copy *list, uint32_t n)
    const char *copy_level_name

choose_copy_level()

# The header's first two bytes: flags, then gso_type. What in them asks for work that was not negotiated.
cdef enum:
    OFFLOAD_ASKED = NET_HDR_F_NEEDS_CSUM | 0xff << 8 * NET_HDR_GSO_TYPE_OFFSET


def copy_level() -> str:
    """The CPU level in use for the copy: "plain", "avx2" or "avx512". FASTVHOST_CPU_LEVEL lowers it."""
    return copy_level_name.decode()


# Copies laid out before the first one is made: room for a burst of frames in four pieces.
cdef enum:
    MAX_COPIES = 4 * BURST


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


cdef uint32_t strip_headers(FrameBurst *burst, uint32_t n, uint32_t header_bytes, Tally *tally) noexcept nogil:
    """Turn the n chains of a burst into frames, in place, up to the first that is none.

    If the first chain is no frame, the burst gets none: the chains up to the first frame are counted as dropped, and
    are to be completed now. So a burst never mixes frames and dropped chains. Returns the chains dealt with.
    """
    cdef uint32_t i = 0, shortest = header_bytes + ETHER_HEADER_BYTES
    cdef uint64_t total = 0
    cdef Chain *chain
    # Nearly always each is one buffer, and a frame.
    while i < n:
        chain = &burst.frames[i]
        if chain.n_segments != 1 or chain.bytes - shortest > <uint32_t>(MAX_FRAME_BYTES - ETHER_HEADER_BYTES):
            break
        if read_once_u16_anywhere(chain.data) & OFFLOAD_ASKED:
            break
        burst.done[i] = Done(chain.ticket, 0)
        chain.data += header_bytes
        chain.bytes -= header_bytes
        total += chain.bytes
        i += 1
    # Or their headers stand whole in the first of several.
    while i < n:
        chain = &burst.frames[i]
        if chain.bytes - shortest > <uint32_t>(MAX_FRAME_BYTES - ETHER_HEADER_BYTES):
            break
        if not strip_whole_header(chain, burst.segments, header_bytes):
            break
        burst.done[i] = Done(chain.ticket, 0)
        total += chain.bytes
        i += 1
    tally.frames += i
    tally.bytes += total
    burst.n_frames = i
    return i if i == n else strip_one_by_one(burst, n, header_bytes, tally)


cdef inline bint strip_whole_header(Chain *chain, Segment *segments, uint32_t header_bytes) noexcept nogil:
    """Take the header off a chain, if it stands whole in the first segment and asks for nothing."""
    cdef Segment alone = Segment(chain.data, chain.bytes)
    cdef Segment *first = &alone if chain.n_segments == 1 else &segments[chain.first_segment]
    if first.bytes < header_bytes or read_once_u16_anywhere(first.data) & OFFLOAD_ASKED:
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


cdef uint32_t strip_one_by_one(FrameBurst *burst, uint32_t n, uint32_t header_bytes, Tally *tally) noexcept nogil:
    """The same from the first chain on that is no frame yet, for those in pieces too."""
    cdef uint32_t i
    cdef DropReason reason
    for i in range(burst.n_frames, n):
        reason = make_frame(&burst.frames[i], burst.segments, header_bytes)
        if burst.n_frames != (i if reason == N_DROP_REASONS else 0):
            return i    # a frame behind some that are none, or one that is none behind frames
        burst.done[i] = Done(burst.frames[i].ticket, 0)
        if reason != N_DROP_REASONS:
            count_drops(tally, reason, 1)
            continue
        burst.n_frames = i + 1
        tally.frames += 1
        tally.bytes += burst.frames[i].bytes
    return n


cdef DropReason make_frame(Chain *chain, Segment *segments, uint32_t header_bytes) noexcept nogil:
    """Take the header off a chain. Why it is no frame, or N_DROP_REASONS."""
    cdef uint16_t asked
    if chain.bytes < header_bytes + ETHER_HEADER_BYTES:
        return RUNT
    if chain.bytes > header_bytes + MAX_FRAME_BYTES:
        return OVERSIZE
    if chain.n_segments == 1:
        asked = read_once_u16_anywhere(chain.data)
        chain.data += header_bytes
        chain.bytes -= header_bytes
    else:
        asked = strip_in_pieces(chain, segments, header_bytes)
    return GSO_UNSUPPORTED if asked & OFFLOAD_ASKED else N_DROP_REASONS


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
    Ring *ring, uint32_t header_bytes, bint mergeable, NetScratch *scratch,
    const Frame *frames, const Segment *segments, uint32_t n, Tally *tally
) noexcept nogil:
    """Copy frames into the receiveq's chains and stage them as used. Returns how many frames are dealt with.

    Fewer than n: the ring has no more chains now, or broke, or the budget of a visit is spent; or n is more than a
    burst. A frame that fits in no buffer is dropped and counted, and so is the one being delivered when the ring broke.
    """
    cdef frame_copy copies[MAX_COPIES]
    cdef Pile pile
    cdef uint64_t total = 0
    cdef uint32_t length, i = 0, fits, n_copies = 0
    cdef const Frame *frame
    cdef const Chain *room

    poison(copies, sizeof(copies))
    poison_scratch(scratch)
    n = min(n, <uint32_t>BURST)  # what there is room for in copies and in scratch.chains
    pile.n_segments = pile.used = 0
    pile.n_chains = ring.take(ring, scratch.chains, n, scratch.segments, &pile.n_segments)
    if pile.n_chains == 0:
        if ring.status == RING_OK:
            return 0
        count_drops(tally, BAD_DESCRIPTOR, 1)
        return 1
    fits = min(n, pile.n_chains)
    # Nearly always, each frame is one piece, and so is the buffer that it goes to.
    while i < fits:
        frame, room = &frames[i], &scratch.chains[i]
        length = frame.bytes + header_bytes
        if length > room.bytes or frame.n_segments != 1 or room.n_segments != 1:
            break
        copies[i] = frame_copy(room.data, frame.data, frame.bytes, header_bytes)
        prefetch_payload(room.data + header_bytes)
        scratch.done[i] = Done(room.ticket, length)
        total += frame.bytes
        i += 1
    n_copies = i
    # Or frames are in pieces and the buffers are not.
    while i < fits:
        frame, room = &frames[i], &scratch.chains[i]
        length = frame.bytes + header_bytes
        if length > room.bytes or room.n_segments != 1 or n_copies + frame.n_segments > MAX_COPIES:
            break
        prefetch_payload(room.data + header_bytes)
        n_copies += gather(&copies[n_copies], room.data, header_bytes, frame, segments)
        scratch.done[i] = Done(room.ticket, length)
        total += frame.bytes
        i += 1
    pile.used = i
    if DEBUG:
        check_copies(ring, copies, n_copies)
    store_release_u32(&scratch.copying, i)
    copy_frames(copies, n_copies)
    store_release_u32(&scratch.copying, 0)
    tally.frames += i
    tally.bytes += total
    if i < fits:
        i += deliver_one_by_one(
            ring, header_bytes, mergeable, scratch, &pile, &frames[i], segments, n - i, tally
        )
    if DEBUG:
        check_pile(scratch, &pile)
    ring.complete(ring, scratch.done, pile.used)
    if pile.used < pile.n_chains:
        ring.untake(ring, &scratch.chains[pile.used], pile.n_chains - pile.used)
    return i


cdef inline void prefetch_payload(uint8_t *payload) noexcept nogil:
    """Not the line of a header that stands in one of its own, which may be right as it is (copy.h)."""
    prefetch_write(payload)
    prefetch_write(payload + 63)


cdef inline uint32_t gather(
    frame_copy *copies, uint8_t *to, uint32_t header_bytes, const Frame *frame, const Segment *segments
) noexcept nogil:
    """Lay out the copies of a frame, piece by piece, the header in front of the first. Returns how many."""
    cdef const Segment *piece = &segments[frame.first_segment]
    cdef uint32_t k
    if frame.n_segments == 1:
        copies[0] = frame_copy(to, frame.data, frame.bytes, header_bytes)
        return 1
    for k in range(frame.n_segments):
        copies[k] = frame_copy(to, piece[k].data, piece[k].bytes, header_bytes)
        to += header_bytes + piece[k].bytes
        header_bytes = 0
    return frame.n_segments


# Receive chains taken for one deliver, and how many of them are filled.
cdef struct Pile:
    uint32_t n_chains
    uint32_t n_segments
    uint32_t used
    uint32_t pieces          # of those that are filled
    bint dealt_with          # a frame at least


cdef inline void poison_scratch(NetScratch *scratch) noexcept nogil:
    """As many segments as a visit has, that of a first frame in more pieces left out."""
    poison(scratch.chains, sizeof(scratch.chains))
    poison(scratch.done, sizeof(scratch.done))
    poison(scratch.segments, 2 * VISIT_PIECES * sizeof(Segment))


cdef void check_copies(const Ring *ring, const frame_copy *copies, uint32_t n) noexcept nogil:
    """That each is written into the memory of the guest that receives it."""
    cdef uint32_t i
    if not DEBUG:
        return
    check(n <= MAX_COPIES, "net: the copies of a burst have room")
    for i in range(n):
        check(
            holds_host(ring.table, copies[i].to, <uint64_t>copies[i].header_bytes + copies[i].bytes),
            "net: a copy goes to guest memory",
        )


cdef void check_pile(const NetScratch *scratch, const Pile *pile) noexcept nogil:
    """That what is given back to the driver was taken, and that nothing was written behind the end of a buffer."""
    cdef uint32_t i
    if not DEBUG:
        return
    check(pile.n_chains <= MAX_RECEIVE_CHAINS, "net: receive chains have room")
    check(pile.used <= pile.n_chains, "net: no more receive chains are filled than were taken")
    for i in range(pile.used):
        check(scratch.done[i].ticket == scratch.chains[i].ticket, "net: receive chains are completed as taken")
        check(scratch.done[i].bytes <= scratch.chains[i].bytes, "net: no more is written to a chain than it holds")


cdef uint32_t deliver_one_by_one(
    Ring *ring, uint32_t header_bytes, bint mergeable, NetScratch *scratch, Pile *pile,
    const Frame *frames, const Segment *segments, uint32_t n, Tally *tally
) noexcept nogil:
    """The same for frames and buffers in any number of pieces. Returns how many frames are dealt with."""
    cdef uint32_t i, spread
    pile.pieces, pile.dealt_with = pile.used, pile.used > 0
    for i in range(n):
        spread = chains_for(ring, header_bytes, mergeable, scratch, pile, frames[i].bytes + header_bytes, n - i)
        if spread == NO_ROOM:
            return i
        if spread == SPENT:
            tally.spent += 1
            return i
        if spread == BROKE:
            count_drops(tally, BAD_DESCRIPTOR, 1)
            return i + 1
        pile.dealt_with = True
        if spread == TOO_LONG:
            count_drops(tally, OVERSIZE, 1)
            continue
        scatter(header_bytes, scratch, pile.used, spread, &frames[i], segments)
        pile.used += spread
        tally.frames += 1
        tally.bytes += frames[i].bytes
    return n


cdef enum Spread:
    NO_ROOM = 0
    TOO_LONG = 0xffffffff
    BROKE = 0xfffffffe       # the ring, while chains for this frame were looked for
    SPENT = 0xfffffffd       # the budget of pieces is, and this is not the visit's first frame


cdef uint32_t chains_for(
    Ring *ring, uint32_t header_bytes, bint mergeable, NetScratch *scratch, Pile *pile, uint32_t length, uint32_t n_left
) noexcept nogil:
    """How many of the chains not filled yet hold a frame of this length with its header; or a Spread.

    n_left: frames to deliver, this one among them; no more chains are taken than those should need.
    The header stands in the first chain whole; further chains hold payload only (section 5.1.6.4). Only a
    visit's first frame may go beyond the budget of pieces.
    """
    cdef uint32_t count = 0, more, chain = pile.used, pieces = pile.pieces
    cdef uint64_t bytes = 0
    while bytes < length:
        if pieces >= VISIT_PIECES and pile.dealt_with:
            return SPENT
        if chain + count == pile.n_chains:
            if pile.n_chains == MAX_RECEIVE_CHAINS:
                return TOO_LONG if chain == 0 else NO_ROOM
            more = n_left * (length // max(scratch.chains[pile.n_chains - 1].bytes, <uint32_t>1) + 1)
            more = min(more, min(<uint32_t>BURST, MAX_RECEIVE_CHAINS - pile.n_chains))
            more = ring.take(
                ring, &scratch.chains[pile.n_chains], more, scratch.segments, &pile.n_segments
            )
            if more == 0:
                if ring.status != RING_OK:
                    return BROKE
                # All that the ring can hold is there and does not do.
                return TOO_LONG if count == ring.size else NO_ROOM
            pile.n_chains += more
        if count == 0 and scratch.chains[chain].bytes < header_bytes:
            ring.status = RING_RECEIVE_CHAIN_TOO_SHORT
            return BROKE
        bytes += scratch.chains[chain + count].bytes
        pieces += scratch.chains[chain + count].n_segments
        count += 1
        if not mergeable and bytes < length:
            return TOO_LONG
    if pieces > VISIT_PIECES and pile.dealt_with:
        return SPENT
    pile.pieces = pieces
    return count


cdef void scatter(
    uint32_t header_bytes, NetScratch *scratch, uint32_t chain, uint32_t spread,
    const Frame *frame, const Segment *segments
) noexcept nogil:
    """Copy one frame into `spread` chains and stage them as used."""
    cdef uint8_t header[NET_HDR_BYTES]
    cdef Segment header_segment = Segment(&header[0], header_bytes), frame_alone, room_alone
    cdef Cursor header_at = Cursor(&header_segment, 0), to, source = cursor_of(frame, segments, &frame_alone)
    cdef uint32_t left = frame.bytes, i, written, room
    cdef const Chain *target
    memset(header, 0, sizeof(header))
    header[NET_HDR_NUM_BUFFERS_OFFSET] = spread & 0xff
    header[NET_HDR_NUM_BUFFERS_OFFSET + 1] = spread >> 8
    scratch.alone, scratch.chain, scratch.n_chains = frame, chain, spread
    store_release_u32(&scratch.copying, 1)
    for i in range(spread):
        target = &scratch.chains[chain + i]
        to = cursor_of(target, scratch.segments, &room_alone)
        written = copy_at(&to, &header_at, header_bytes) if i == 0 else 0
        room = min(left, target.bytes - written)
        copy_at(&to, &source, room)
        left -= room
        scratch.done[chain + i] = Done(target.ticket, written + room)
    check(left == 0, "net: a frame is copied whole")
    store_release_u32(&scratch.copying, 0)
    scratch.alone = NULL
