"""Frames in a backlog go with their lane when it gets another worker. See backlog_move.pxd.

Both workers are at the door meanwhile. Frames are copied from one pool to the other, 16 MiB at the most. Those of other
lanes stay where they are, and in their order.
"""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.cursor cimport Cursor, copy_at
from fastvhost.dataplane.forward.backlog cimport add
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.waiting cimport (
    BACKLOG_BLOCKS,
    BACKLOG_FRAMES,
    MOST_BACKLOGS,
    POOL_BLOCKS,
    Backlog,
    Backlogs,
    Waiting,
    find_backlog,
    list_blocks,
    open_backlog,
    shut,
    waiting_at,
)


cdef bint may_go_along(const MovedLanes *moved, uint32_t n) noexcept nogil:
    """Whether the takers have room for all that waits. Of several shares at once, only where nothing does."""
    cdef uint32_t i
    for i in range(n):
        if not has_room(&moved[i], n == 1):
            return False
    return True


cdef void take_along(const MovedLanes *moved) noexcept nogil:
    """Where may_go_along()."""
    cdef uint32_t i = moved.giver.n_open
    while i:    # one that becomes empty gives its place to the last one
        i -= 1
        if not is_over(moved.giver.at[i]):
            move_frames(moved, moved.giver.at[i])


cdef bint has_room(const MovedLanes *moved, bint alone) noexcept nogil:
    cdef const Backlogs *taker = moved.taker
    cdef uint32_t i, k, frames, blocks, all_blocks = taker.n_used - taker.n_free, opened = taker.n_open
    cdef const Backlog *backlog
    cdef const Backlog *other
    for i in range(moved.giver.n_open):
        backlog = moved.giver.at[i]
        frames = blocks = 0
        for k in range(backlog.n):
            if is_of(moved, waiting_at(backlog, k)):
                frames += 1
                blocks += waiting_at(backlog, k).n_blocks
        if frames == 0 or is_over(backlog):
            continue
        all_blocks += blocks
        other = find_backlog(moved.taker, backlog.egress, backlog.pair)
        if other == NULL:
            opened += 1
        else:
            frames += other.n
            blocks += other.n_blocks
        if not alone or frames > BACKLOG_FRAMES or blocks > BACKLOG_BLOCKS or (other != NULL and is_over(other)):
            return False
    return all_blocks <= POOL_BLOCKS and opened <= MOST_BACKLOGS


cdef inline bint is_over(const Backlog *backlog) noexcept nogil:
    """Its queue has stopped since: its worker drops what is in it."""
    return backlog.stops != backlog.egress.stops[backlog.pair]


cdef inline bint is_of(const MovedLanes *moved, const Waiting *frame) noexcept nogil:
    cdef const Lane *lane = <const Lane *>frame.lane
    if not moved.lanes <= lane < moved.lanes + moved.n_lanes:
        return False
    return <uint32_t>(lane - moved.lanes) % moved.n_lanes % moved.shares == moved.share


cdef void move_frames(const MovedLanes *moved, Backlog *backlog) noexcept nogil:
    cdef Backlogs *giver = moved.giver
    cdef uint32_t i, n_blocks, block = 0, stay = 0, stay_blocks = 0
    cdef Waiting *frame
    for i in range(backlog.n):
        frame = waiting_at(backlog, i)
        n_blocks = frame.n_blocks
        if is_of(moved, frame):
            copy_frame(moved, backlog, block, frame)
            free_blocks(giver, backlog, block, n_blocks)
        else:
            waiting_at(backlog, stay)[0] = frame[0]
            shift_blocks(backlog, block, stay_blocks, n_blocks)
            stay += 1
            stay_blocks += n_blocks
        block += n_blocks
    giver.n_frames -= backlog.n - stay
    backlog.n, backlog.n_blocks = stay, stay_blocks
    if stay == 0:
        shut(giver, backlog)


cdef void copy_frame(
    const MovedLanes *moved, const Backlog *backlog, uint32_t block, const Waiting *frame
) noexcept nogil:
    """To the taker's backlog of the same queue."""
    cdef Backlogs *taker = moved.taker
    cdef Backlog *other = find_backlog(taker, backlog.egress, backlog.pair)
    cdef Cursor source = Cursor(&moved.giver.segments[0], 0), to = Cursor(&taker.segments[0], 0)
    if other == NULL:
        other = open_backlog(taker, backlog.egress, backlog.pair)
    list_blocks(moved.giver, backlog, block, frame, &moved.giver.segments[0])
    add(taker, other, frame.bytes, &frame.head, frame.until, frame.lane)
    copy_at(&to, &source, frame.bytes)


cdef void free_blocks(Backlogs *giver, const Backlog *backlog, uint32_t first, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        giver.free[giver.n_free] = backlog.blocks[(backlog.first_block + first + i) & (BACKLOG_BLOCKS - 1)]
        giver.n_free += 1


cdef void shift_blocks(Backlog *backlog, uint32_t first, uint32_t to, uint32_t n) noexcept nogil:
    cdef uint32_t i, at = backlog.first_block
    for i in range(n):
        backlog.blocks[(at + to + i) & (BACKLOG_BLOCKS - 1)] = backlog.blocks[(at + first + i) & (BACKLOG_BLOCKS - 1)]
