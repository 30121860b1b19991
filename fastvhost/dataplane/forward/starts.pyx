"""The first bytes of frames, read once, and frames that begin with them.

Whoever decides on a header in memory that another party writes must decide on a copy, and that copy must be what is
delivered: else a guest changes the header in between. An egress that takes starts writes them over its copy of
a frame. For the others a frame is spliced: its first piece is the start in our memory, the rest is where it was.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.ether cimport ETHER_ADDRESSES_BYTES, ETHERTYPE_VLAN, get16
from fastvhost.dataplane.frame cimport (
    START_BYTES, TAGGED_BYTES, UNTAGGED_BYTES, Delivery, Frame, FrameBurst, Segment, Start, start_of,
)


cdef enum:
    AT_ONCE = 4


cdef bint read_starts(Start *starts, const FrameBurst *burst, uint32_t first, uint32_t n) noexcept nogil:
    """Read those of n frames, which have 14 bytes at least. True: all are starts[0], the only one that was written."""
    cdef const Frame *frames = &burst.frames[first]
    cdef uint64_t common[2]
    cdef uint64_t words[2]
    cdef uint64_t matters = ~<uint64_t>0
    cdef uint32_t i, alike = 1
    read_start(&starts[0], burst, &frames[0])
    memcpy(common, starts[0].bytes, START_BYTES)
    if starts[0].n < <uint32_t>START_BYTES:
        matters >>= 8 * (<uint32_t>START_BYTES - starts[0].n)
    while alike + <uint32_t>AT_ONCE <= n and are_alike(&frames[alike], common, matters):
        alike += AT_ONCE
    while alike < n and is_at_hand(&frames[alike]):
        memcpy(words, frames[alike].data, START_BYTES)
        if (words[0] ^ common[0]) | (words[1] ^ common[1]) & matters:
            break  # what it is, is read below: this decided on nothing
        alike += 1
    if alike == n:
        return True
    for i in range(1, alike):
        starts[i] = starts[0]
    for i in range(alike, n):
        read_start(&starts[i], burst, &frames[i])
    return False


cdef inline bint are_alike(const Frame *frames, const uint64_t *common, uint64_t matters) noexcept nogil:
    """Whether the next AT_ONCE frames begin like the first one. If not, this decided on nothing."""
    cdef uint64_t words[2]
    cdef uint64_t first = 0, last = 0
    cdef uint32_t i
    for i in range(<uint32_t>AT_ONCE):
        if not is_at_hand(&frames[i]):
            return False
        memcpy(words, frames[i].data, START_BYTES)
        first |= words[0] ^ common[0]
        last |= words[1] ^ common[1]
    return first | last & matters == 0


cdef inline bint is_at_hand(const Frame *frame) noexcept nogil:
    """In one piece, and long enough for a tag and the EtherType behind it (forward/tags counts on that)."""
    return frame.n_segments == 1 and frame.bytes >= <uint32_t>TAGGED_BYTES


cdef inline void read_start(Start *start, const FrameBurst *burst, const Frame *frame) noexcept nogil:
    if is_at_hand(frame):
        memcpy(start.bytes, frame.data, START_BYTES)
    else:
        gather_start(start, burst, frame)
    start.n = start.skip = UNTAGGED_BYTES
    if get16(start.bytes + ETHER_ADDRESSES_BYTES) == ETHERTYPE_VLAN and frame.bytes >= <uint32_t>START_BYTES:
        start.n = start.skip = START_BYTES


cdef void gather_start(Start *start, const FrameBurst *burst, const Frame *frame) noexcept nogil:
    """The first bytes of a frame in pieces, or of one that is not longer."""
    cdef const Segment *segment = &burst.segments[frame.first_segment]
    cdef Segment alone = Segment(frame.data, frame.bytes)
    cdef uint32_t piece, done = 0, n = min(frame.bytes, <uint32_t>START_BYTES)
    if frame.n_segments == 1:
        segment = &alone
    while done < n:
        piece = min(n - done, segment.bytes)
        memcpy(start.bytes + done, segment.data, piece)
        done += piece
        segment += 1


cdef const Delivery *splice(Splicer *splicer, const Delivery *delivery) noexcept nogil:
    """The same frames, each with its start as a piece of its own. Good until the next call."""
    cdef uint32_t i, k, n_segments = 0, skip, at
    cdef const Frame *frame
    cdef const Segment *segment
    cdef const Start *start
    cdef Segment alone
    for i in range(delivery.n):
        frame = &delivery.frames[i]
        segment = &delivery.segments[frame.first_segment]
        start = start_of(delivery, i)
        if frame.n_segments == 1:
            alone = Segment(frame.data, frame.bytes - start.n + start.skip)
            segment = &alone
        skip = start.skip
        splicer.frames[i] = frame[0]
        splicer.frames[i].first_segment = n_segments
        splicer.frames[i].data = <uint8_t *>start.bytes
        splicer.segments[n_segments] = Segment(<uint8_t *>start.bytes, start.n)
        n_segments += 1
        for k in range(frame.n_segments):
            at = min(skip, segment[k].bytes)
            skip -= at
            if at < segment[k].bytes:
                splicer.segments[n_segments] = Segment(segment[k].data + at, segment[k].bytes - at)
                n_segments += 1
        splicer.frames[i].n_segments = <unsigned short>(n_segments - splicer.frames[i].first_segment)
    check(n_segments <= MAX_SPLICED, "starts: spliced frames have room")
    splicer.delivery = Delivery(
        delivery.n, delivery.needs, &splicer.frames[0], splicer.segments, delivery.heads, NULL, True, False
    )
    return &splicer.delivery
