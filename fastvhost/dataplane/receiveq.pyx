"""From frames to the chains of a receiveq: headers and payload are copied, once. Virtio 1.2, section 5.1.6.3.

In front of a frame its head is written, or heads[0], which says that it is a plain one. A checksum that the receiver
would not fill in is filled in here (offload/summed).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport prefetch_write, store_release_u32
from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.dataplane.copy cimport (
    choose_copy_level,
    copy_frames,
    copy_headed_frames,
    copy_level_name,
    frame_copy,
    put_header,
)
from fastvhost.dataplane.cursor cimport Cursor, copy_at, cursor_of
from fastvhost.dataplane.debug cimport DEBUG, check, poison
from fastvhost.dataplane.drop_reason cimport BAD_DESCRIPTOR, OVERSIZE
from fastvhost.dataplane.frame cimport (
    BURST,
    NEED_CSUM,
    START_BYTES,
    VISIT_PIECES,
    Chain,
    Delivery,
    Done,
    Frame,
    Head,
    Segment,
    Start,
    put_start,
    start_of,
)
from fastvhost.dataplane.guest_memory cimport holds_host
from fastvhost.dataplane.offload.summed cimport (
    Sum,
    begin_sum,
    copy_summed,
    copy_summed_at,
    copy_whole_summed,
    store_checksum,
)
from fastvhost.dataplane.ring cimport RING_OK, RING_RECEIVE_CHAIN_TOO_SHORT, Ring
from fastvhost.dataplane.tally cimport count_drops

cdef extern from "fastvhost/dataplane/offload/checksum.h" nogil:
    void choose_sum_level(const char *level)

choose_copy_level()
choose_sum_level(copy_level_name)


def copy_level() -> str:
    """The CPU level in use for the copy: "plain", "avx2" or "avx512". FASTVHOST_CPU_LEVEL lowers it."""
    return copy_level_name.decode()


cdef const char *CUT_BEFORE = "net: what its receiver does not take is cut before"

# Copies laid out before the first one is made: room for a burst of frames in four pieces.
cdef enum:
    MAX_COPIES = 4 * BURST


cdef uint32_t deliver(
    Ring *ring, const Receiver *receiver, NetScratch *scratch, const Delivery *delivery, Tally *tally
) noexcept nogil:
    """Copy frames into the receiveq's chains and stage them as used. Returns how many frames are dealt with.

    Fewer than n: the ring has no more chains now, or broke, or the budget of a visit is spent; or n is more than a
    burst. A frame that fits in no buffer is dropped and counted, and so is the one being delivered when the ring broke.
    """
    cdef frame_copy copies[MAX_COPIES]
    cdef Sum sums[BURST]
    cdef Pile pile
    cdef const Frame *frames = delivery.frames
    cdef uint64_t total = 0
    cdef uint32_t header_bytes = receiver.header_bytes
    cdef uint32_t length, i, fits, n_copies, n_whole, n_sums = 0
    cdef uint32_t needs = delivery.needs, unmet = needs & ~receiver.accepts
    cdef uint32_t n = min(delivery.n, <uint32_t>BURST)  # what there is room for in copies and in scratch.chains
    cdef const Frame *frame
    cdef const Chain *room

    poison(copies, sizeof(copies))
    poison_scratch(scratch)
    pile.n_segments = pile.used = 0
    pile.n_chains = ring.take(ring, scratch.chains, n, scratch.segments, &pile.n_segments)
    if pile.n_chains == 0:
        if ring.status == RING_OK:
            return 0
        count_drops(tally, BAD_DESCRIPTOR, 1)
        return 1
    fits = min(n, pile.n_chains)
    # Nearly always, each frame is one piece, and so is the buffer that it goes to.
    if needs:
        i = lay_out(copies, receiver, scratch, delivery, frames, fits, True, &total)
    else:
        i = lay_out(copies, receiver, scratch, delivery, frames, fits, False, &total)
    n_copies = n_whole = i
    # Or frames are in pieces and the buffers are not.
    while i < fits:
        frame, room = &frames[i], &scratch.chains[i]
        length = frame.bytes + header_bytes
        if length > room.bytes or room.n_segments != 1 or n_copies + frame.n_segments > MAX_COPIES:
            break
        prefetch_payload(room.data + header_bytes)
        if needs:
            copies[n_copies].header = &delivery.heads[frame.head]
            if delivery.heads[frame.head].needs & unmet:
                check(delivery.heads[frame.head].needs & unmet == NEED_CSUM, CUT_BEFORE)
                copies[n_copies].header = &delivery.heads[0]
                begin_sum(&sums[n_sums], &delivery.heads[frame.head])
                sums[n_sums].first_copy, sums[n_sums].n_copies = n_copies - n_whole, frame.n_segments
                n_sums += 1
        list_copies(&copies[n_copies], room.data, header_bytes, delivery, frame)
        n_copies += frame.n_segments
        scratch.done[i] = Done(room.ticket, length)
        total += frame.bytes
        i += 1
    pile.used = i
    if DEBUG:
        check_copies(ring, copies, n_copies)
    store_release_u32(&scratch.copying, i)
    if not needs:
        copy_frames(copies, n_copies)
    elif not unmet:
        copy_headed_frames(copies, n_copies)
    else:
        copy_whole_frames(copies, n_whole, unmet, &delivery.heads[0])
        copy_with_sums(&copies[n_whole], n_copies - n_whole, sums, n_sums)
    if delivery.starts != NULL:
        put_starts(scratch, header_bytes, delivery, i)
    store_release_u32(&scratch.copying, 0)
    tally.frames += i
    tally.bytes += total
    if i < fits:
        i += deliver_one_by_one(
            ring, receiver, scratch, &pile, delivery, i, n - i, tally
        )
    if DEBUG:
        check_pile(scratch, &pile)
    ring.complete(ring, scratch.done, pile.used)
    if pile.used < pile.n_chains:
        ring.untake(ring, &scratch.chains[pile.used], pile.n_chains - pile.used)
    return i


cdef inline void prefetch_payload(uint8_t *payload) noexcept nogil:
    """The lines of the payload alone: a header in a line of its own is often not written at all (copy.h)."""
    prefetch_write(payload)
    prefetch_write(payload + 63)


cdef inline uint32_t lay_out(
    frame_copy *copies, const Receiver *receiver, NetScratch *scratch, const Delivery *delivery, const Frame *frames,
    uint32_t fits, bint has_heads, uint64_t *total
) noexcept nogil:
    """Lay out copies of frames in one piece, to buffers in one piece. Returns how many.

    has_heads: some frame has one. total: of their bytes.
    """
    cdef uint32_t length, i = 0, header_bytes = receiver.header_bytes
    cdef uint64_t n_bytes = 0
    cdef const Frame *frame
    cdef const Chain *room
    while i < fits:
        frame, room = &frames[i], &scratch.chains[i]
        length = frame.bytes + header_bytes
        if length > room.bytes or frame.n_segments != 1 or room.n_segments != 1:
            break
        if has_heads:
            copies[i].header = &delivery.heads[frame.head]
        copies[i].to, copies[i].from_, copies[i].bytes = room.data, frame.data, frame.bytes
        copies[i].header_bytes = header_bytes
        prefetch_payload(room.data + header_bytes)
        scratch.done[i] = Done(room.ticket, length)
        n_bytes += frame.bytes
        i += 1
    total[0] = n_bytes
    return i


cdef void put_starts(
    const NetScratch *scratch, uint32_t header_bytes, const Delivery *delivery, uint32_t n
) noexcept nogil:
    """The first bytes of frames that lie in buffers of one piece."""
    cdef uint32_t i, behind
    cdef uint64_t first, middle, last
    cdef uint8_t *to
    cdef const Start *common = delivery.starts
    cdef bint pushed = common.n > <uint32_t>START_BYTES
    if delivery.alike:
        memcpy(&first, common.bytes, 8)
        memcpy(&middle, common.bytes + 8, 8)
        memcpy(&last, common.bytes + common.n - 8, 8)
        behind = header_bytes + common.n - 8
        for i in range(n):
            to = scratch.chains[i].data
            memcpy(to + header_bytes, &first, 8)
            if pushed:
                memcpy(to + header_bytes + 8, &middle, 8)
            memcpy(to + behind, &last, 8)
        return
    for i in range(n):
        put_start(scratch.chains[i].data + header_bytes, start_of(delivery, i))


cdef void put_start_at(
    const NetScratch *scratch, uint32_t chain, uint32_t spread, uint32_t header_bytes, const Start *start
) noexcept nogil:
    """The first bytes of a frame that lies in several chains, or in a chain of pieces."""
    cdef uint32_t skip = header_bytes, done = 0, k = 0, piece, n
    cdef const Chain *target
    cdef Segment alone
    cdef const Segment *segment
    for chain in range(chain, chain + spread):
        target = &scratch.chains[chain]
        segment = cursor_of(target, scratch.segments, &alone).segment
        for k in range(target.n_segments):
            piece = min(skip, segment[k].bytes)
            skip -= piece
            n = min(start.n - done, segment[k].bytes - piece)
            memcpy(segment[k].data + piece, start.bytes + done, n)
            done += n
            if done == start.n:
                return


cdef inline void list_copies(
    frame_copy *copies, uint8_t *to, uint32_t header_bytes, const Delivery *delivery, const Frame *frame
) noexcept nogil:
    """Lay out the copies of a frame, one for each piece of it, the header in front of the first."""
    cdef const Segment *piece = &delivery.segments[frame.first_segment]
    cdef uint32_t k
    if frame.n_segments == 1:
        copies[0].to, copies[0].from_, copies[0].bytes = to, frame.data, frame.bytes
        copies[0].header_bytes = header_bytes
        return
    for k in range(frame.n_segments):
        copies[k].to, copies[k].from_, copies[k].bytes = to, piece[k].data, piece[k].bytes
        copies[k].header_bytes = header_bytes
        to += header_bytes + piece[k].bytes
        header_bytes = 0


cdef void copy_whole_frames(
    const frame_copy *copies, uint32_t n, uint32_t unmet, const Head *plain
) noexcept nogil:
    """Make copies of frames in one piece, each with its head; the checksum of those with an unmet need is filled in."""
    cdef uint32_t at = 0, i
    cdef const Head *head
    for i in range(n):
        head = <const Head *>copies[i].header
        if not head.needs & unmet:
            continue
        check(head.needs & unmet == NEED_CSUM, CUT_BEFORE)
        if at < i:
            copy_headed_frames(&copies[at], i - at)
        at = i + 1
        copy_whole_summed(&copies[i], head, plain)
    if at < n:
        copy_headed_frames(&copies[at], n - at)


cdef void copy_with_sums(const frame_copy *copies, uint32_t n_copies, Sum *sums, uint32_t n_sums) noexcept nogil:
    """Make copies of frames in pieces in their order; those that belong to one of `sums` are summed."""
    cdef uint32_t at = 0, i, k
    cdef const frame_copy *copy
    for i in range(n_sums):
        if at < sums[i].first_copy:
            copy_headed_frames(&copies[at], sums[i].first_copy - at)
        at = sums[i].first_copy + sums[i].n_copies
        for k in range(sums[i].first_copy, at):
            copy = &copies[k]
            copy_summed(put_header(copy.to, copy.header, copy.header_bytes), copy.from_, copy.bytes, &sums[i])
        store_checksum(&sums[i])
    if at < n_copies:
        copy_headed_frames(&copies[at], n_copies - at)


# Receive chains taken for one deliver, and how many of them are filled.
cdef struct Pile:
    uint32_t n_chains
    uint32_t n_segments
    uint32_t used
    uint32_t pieces          # of those that are filled
    bint dealt_with          # a frame at least


cdef inline void poison_scratch(NetScratch *scratch) noexcept nogil:
    """As many segments as a visit may use; a first frame in more pieces uses more, which are not poisoned."""
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
    Ring *ring, const Receiver *receiver, NetScratch *scratch, Pile *pile, const Delivery *delivery, uint32_t first,
    uint32_t n, Tally *tally
) noexcept nogil:
    """The same for frames and buffers in any number of pieces. Returns how many frames are dealt with."""
    cdef const Frame *frames = &delivery.frames[first]
    cdef uint32_t i, spread
    pile.pieces, pile.dealt_with = pile.used, pile.used > 0
    for i in range(n):
        spread = chains_for(ring, receiver, scratch, pile, frames[i].bytes + receiver.header_bytes, n - i)
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
        if delivery.heads[frames[i].head].needs & ~receiver.accepts:
            scatter(receiver.header_bytes, scratch, pile.used, spread, delivery, &frames[i], True)
        else:
            scatter(receiver.header_bytes, scratch, pile.used, spread, delivery, &frames[i], False)
        if delivery.starts != NULL:
            put_start_at(scratch, pile.used, spread, receiver.header_bytes, start_of(delivery, first + i))
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
    Ring *ring, const Receiver *receiver, NetScratch *scratch, Pile *pile, uint32_t length, uint32_t n_left
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
                # All that the ring can hold is there, and is not enough.
                return TOO_LONG if count == ring.size else NO_ROOM
            pile.n_chains += more
        if count == 0 and scratch.chains[chain].bytes < receiver.header_bytes:
            ring.status = RING_RECEIVE_CHAIN_TOO_SHORT
            return BROKE
        bytes += scratch.chains[chain + count].bytes
        pieces += scratch.chains[chain + count].n_segments
        count += 1
        if not receiver.mergeable and bytes < length:
            return TOO_LONG
    if pieces > VISIT_PIECES and pile.dealt_with:
        return SPENT
    pile.pieces = pieces
    return count


cdef inline void scatter(
    uint32_t header_bytes, NetScratch *scratch, uint32_t chain, uint32_t spread,
    const Delivery *delivery, const Frame *frame, bint summed
) noexcept nogil:
    """Copy one frame into `spread` chains, and note for complete() what was written to each.

    summed: its checksum is still to be filled in, and its receiver does not do that.
    """
    cdef NetHeader header = delivery.heads[0 if summed else frame.head].net
    cdef Segment header_segment = Segment(<uint8_t *>&header, header_bytes), frame_alone, room_alone
    cdef Cursor header_at = Cursor(&header_segment, 0), to, source = cursor_of(frame, delivery.segments, &frame_alone)
    cdef uint32_t left = frame.bytes, i, written, room
    cdef const Chain *target
    cdef Sum sum
    header.num_buffers = <uint16_t>spread
    if summed:
        begin_sum(&sum, &delivery.heads[frame.head])
    scratch.alone, scratch.chain, scratch.n_chains = frame, chain, spread
    store_release_u32(&scratch.copying, 1)
    for i in range(spread):
        target = &scratch.chains[chain + i]
        to = cursor_of(target, scratch.segments, &room_alone)
        written = copy_at(&to, &header_at, header_bytes) if i == 0 else 0
        room = min(left, target.bytes - written)
        if summed:
            copy_summed_at(&to, &source, room, &sum)
        else:
            copy_at(&to, &source, room)
        left -= room
        scratch.done[chain + i] = Done(target.ticket, written + room)
    check(left == 0, "net: a frame is copied whole")
    if summed:
        store_checksum(&sum)
    store_release_u32(&scratch.copying, 0)
    scratch.alone = NULL
