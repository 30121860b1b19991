"""Frames that wait for room at receive queues, in memory of ours: what one worker has of them.

Memory comes in blocks of one pool: a frame has as many as it needs, and gives them back as it goes.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.frame cimport BURST, Delivery, Frame, Head, Segment
from fastvhost.dataplane.offload.cut cimport Super
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.tally cimport Tally


# Powers of two: places in a ring of frames, or of blocks, are masked.
cdef enum:
    BLOCK_BYTES = 2048       # a frame of a usual MTU has one
    BACKLOG_FRAMES = 256     # that may wait for one queue,
    BACKLOG_BLOCKS = 256     # in so many blocks at most: 512 KiB
    POOL_BLOCKS = 8192       # of one worker: 16 MiB
    MOST_BACKLOGS = 256      # of one worker, for a queue each


cdef struct Waiting:
    uint64_t until           # monotonic ns: then it is dropped
    uint32_t bytes           # of it, or of what is left of it
    uint32_t skip            # in its first block, in front of what is left
    uint32_t n_blocks
    const void *lane         # that it came from. It may be gone
    Head head                # heads[0] of a burst: it needs nothing


# Of one receive queue. Both arrays are rings.
cdef struct Backlog:
    PortOps *egress
    uint32_t pair
    uint32_t stops           # of the queue (PortOps) when the first frame came
    uint32_t number          # its place among the worker's
    bint stalled             # nothing of it was delivered when that was last tried
    uint32_t first
    uint32_t n
    uint32_t first_block
    uint32_t n_blocks
    uint16_t blocks[BACKLOG_BLOCKS]   # their numbers in the pool, frame after frame
    Waiting frames[BACKLOG_FRAMES]


# Everything in it belongs to one worker.
cdef struct Backlogs:
    uint32_t n_open          # at[0] to at[n_open - 1] have frames, the others none
    uint32_t next            # is delivered next, of a round
    uint64_t n_frames        # in all of them
    const Tally *queues[MOST_BACKLOGS]   # whose at[i] is, by the counters of that queue
    Backlog *at[MOST_BACKLOGS]
    # the pool: blocks from n_used on were never taken
    uint32_t n_used
    uint32_t n_free
    uint16_t free[POOL_BLOCKS]
    # where frames are laid out to be delivered
    Delivery delivery
    Frame frames[BURST]
    Head heads[BURST + 1]
    Segment segments[BACKLOG_BLOCKS]
    Super super
    # touched as far as it is used
    Backlog all[MOST_BACKLOGS]
    uint8_t pool[POOL_BLOCKS * BLOCK_BYTES]


# Which backlog, and where its frames are


cdef inline Backlog *find_backlog(Backlogs *backlogs, const PortOps *egress, uint32_t pair) noexcept nogil:
    """NULL: nothing waits there."""
    cdef const Tally *queue = &egress.tx[pair]
    cdef uint32_t i
    for i in range(backlogs.n_open):
        if backlogs.queues[i] == queue:
            return backlogs.at[i]
    return NULL


cdef inline Backlog *open_backlog(Backlogs *backlogs, PortOps *egress, uint32_t pair) noexcept nogil:
    """An empty one. NULL: the worker has as many as there may be."""
    cdef Backlog *backlog
    if backlogs.n_open == MOST_BACKLOGS:
        return NULL
    backlog = backlogs.at[backlogs.n_open]
    backlog.egress, backlog.pair, backlog.stops = egress, pair, egress.stops[pair]
    backlog.number, backlog.stalled = backlogs.n_open, False
    backlog.first = backlog.n = backlog.first_block = backlog.n_blocks = 0
    backlogs.queues[backlogs.n_open] = &egress.tx[pair]
    backlogs.n_open += 1
    return backlog


cdef inline uint32_t shut(Backlogs *backlogs, const Backlog *backlog) noexcept nogil:
    """An empty one has no queue any more. Returns 0."""
    cdef uint32_t at = backlog.number, last = backlogs.n_open - 1
    check(backlog.n == 0 and backlog.n_blocks == 0, "backlog: a backlog that is closed is empty")
    backlogs.at[at], backlogs.at[last] = backlogs.at[last], backlogs.at[at]
    backlogs.queues[at] = backlogs.queues[last]
    backlogs.at[at].number = at
    backlogs.n_open = last
    return 0


cdef inline Waiting *waiting_at(const Backlog *backlog, uint32_t i) noexcept nogil:
    return <Waiting *>&backlog.frames[(backlog.first + i) & (BACKLOG_FRAMES - 1)]


cdef inline void list_blocks(
    Backlogs *backlogs, const Backlog *backlog, uint32_t first, const Waiting *frame, Segment *pieces
) noexcept nogil:
    """Where a frame is whose blocks are the backlog's from `first` on."""
    cdef uint32_t i, skip = frame.skip, left = frame.bytes, piece, block
    for i in range(frame.n_blocks):
        block = backlog.blocks[(backlog.first_block + first + i) & (BACKLOG_BLOCKS - 1)]
        piece = min(left, <uint32_t>BLOCK_BYTES - skip)
        pieces[i] = Segment(&backlogs.pool[block * <uint32_t>BLOCK_BYTES + skip], piece)
        left -= piece
        skip = 0
    check(left == 0, "backlog: a frame has as many blocks as it needs")


cdef inline unsigned short take_block(Backlogs *backlogs) noexcept nogil:
    """The one that was given back last: its memory is in the CPU's cache."""
    if backlogs.n_free:
        backlogs.n_free -= 1
        return backlogs.free[backlogs.n_free]
    backlogs.n_used += 1
    return <unsigned short>(backlogs.n_used - 1)


cdef inline void give_blocks(Backlogs *backlogs, Backlog *backlog, uint32_t n) noexcept nogil:
    """The backlog's first n blocks are free."""
    cdef uint32_t i
    check(n <= backlog.n_blocks, "backlog: no more blocks are given back than it has")
    for i in range(n):
        backlogs.free[backlogs.n_free + i] = backlog.blocks[(backlog.first_block + i) & (BACKLOG_BLOCKS - 1)]
    backlogs.n_free += n
    backlog.first_block = (backlog.first_block + n) & (BACKLOG_BLOCKS - 1)
    backlog.n_blocks -= n
