"""Frames for one port of a switch that it has no room for now: copied, so that their sender and all others go on.

Each worker has a backlog for each receive queue that it found full. A frame is copied there with the head and the start
that were decided on, and its chain completes in its turn. While a backlog is not empty, later frames of its worker to
its queue go behind it, so the order of a flow is kept. It is delivered in each round, and before its worker delivers
anything else to that queue. What waits for longer than the hold timeout is dropped; all of it, where its queue stops.

What is left of a super-frame that is cut half-way is a super-frame again, with headers of its own, so it waits like any
other frame. Frames of a flood never wait: they are delivered where the backlog is empty and there is room.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.cursor cimport Cursor, copy_at, cursor_of
from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.delivery_lock cimport DeliveryLock, give_lock, try_lock
from fastvhost.dataplane.drop_reason cimport NO_RECEIVE_BUFFERS, RING_DISABLED, DropReason
from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.starts cimport splice
from fastvhost.dataplane.forward.waiting cimport (
    BACKLOG_BLOCKS,
    BACKLOG_FRAMES,
    BLOCK_BYTES,
    MOST_BACKLOGS,
    POOL_BLOCKS,
    Backlog,
    Backlogs,
    Waiting,
    find_backlog,
    give_blocks,
    list_blocks,
    open_backlog,
    shut,
    take_block,
    waiting_at,
)
from fastvhost.dataplane.frame cimport BURST, Delivery, Frame, Head, Segment
from fastvhost.dataplane.offload.cut cimport (
    CUT_NEEDS,
    MOST_CUT_HEADER_BYTES,
    Super,
    deliver_cut,
    write_rest_header,
)
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.roster cimport Roster, look_at
from fastvhost.dataplane.tally cimport Tally, count_drops


cdef Backlogs *make_backlogs() noexcept nogil:
    """Those of a worker, to be given to discard_backlogs(). NULL: there is no memory."""
    # Address space: a page is used from the first frame on that needs it.
    cdef Backlogs *backlogs = <Backlogs *>calloc(1, sizeof(Backlogs))
    cdef uint32_t i
    if backlogs != NULL:
        for i in range(<uint32_t>MOST_BACKLOGS):
            backlogs.at[i] = &backlogs.all[i]
        backlogs.heads[0] = Head(NetHeader(0, 0, 0, 0, 0, 0, 1), 0)
    return backlogs


cdef void discard_backlogs(Backlogs *backlogs) noexcept nogil:
    free(backlogs)


# Delivering


cdef bint is_behind(Lane *lane, const Exit *exit, uint32_t pair) noexcept nogil:
    """Whether frames wait in front of those of an exit, once their queue was given what it has room for."""
    cdef Backlog *backlog = find_backlog(lane.backlogs, exit.egress, pair)
    if backlog == NULL:
        return False
    drain(lane, exit, backlog)
    return backlog.n != 0


cdef uint32_t drain_some(Backlogs *backlogs, Roster *roster, Lane *lane) noexcept nogil:
    """Deliver what there is room for. Returns the frames that were delivered or dropped.

    lane: none of a port; where the worker is meanwhile.
    """
    cdef Backlog *backlog
    cdef uint32_t _turn, moved = 0
    cdef uint64_t began = roster.read_ticks()
    for _turn in range(min(backlogs.n_open, <uint32_t>BACKLOGS_A_ROUND)):
        if backlogs.next >= backlogs.n_open:
            backlogs.next = 0
        backlog = backlogs.at[backlogs.next]
        lane.lone.egress = backlog.egress
        look_at(roster, lane)
        moved += drain_in_turn(lane, backlog)
        if backlog.n:    # else another one has its place
            backlogs.next += 1
    look_at(roster, NULL)
    if moved:
        roster.worked += roster.now - began
    return moved


cdef uint32_t drain_in_turn(Lane *lane, Backlog *backlog) noexcept nogil:
    """The same for one of them, unless another worker delivers to its queue just now."""
    cdef DeliveryLock *lock = &backlog.egress.locks[backlog.pair]
    cdef uint32_t moved
    if not backlog.egress.shared:
        return drain(lane, &lane.lone, backlog)
    if not try_lock(lock):
        return 0
    moved = drain(lane, &lane.lone, backlog)
    give_lock(lock)
    return moved


cdef uint32_t drain(Lane *lane, const Exit *exit, Backlog *backlog) noexcept nogil:
    """Deliver what its queue has room for. What waits for too long is dropped. Returns the frames dealt with.

    lane, exit: where the worker is meanwhile.
    """
    cdef Backlogs *backlogs = lane.backlogs
    cdef Tally *tally = &backlog.egress.tx[backlog.pair]
    cdef uint32_t before = backlog.n, done
    if backlog.stops != backlog.egress.stops[backlog.pair]:
        count_drops(tally, RING_DISABLED, backlog.n)
        take_off(backlogs, backlog, backlog.n)
    while backlog.n:
        lay_out(backlogs, backlog)
        done = deliver_first(lane, exit, backlog)
        backlog.stalled = done == 0
        take_off(backlogs, backlog, done)
        if done < backlogs.delivery.n:
            break
    if backlogs.super.begun:
        shorten(backlogs, backlog)
    if backlog.n:
        done = n_late(backlog)
        count_drops(tally, NO_RECEIVE_BUFFERS, done)
        take_off(backlogs, backlog, done)
    return before - backlog.n


cdef uint32_t deliver_first(Lane *lane, const Exit *exit, const Backlog *backlog) noexcept nogil:
    """Deliver frames that were laid out. Returns how many are dealt with. `super`: where the next one is cut."""
    cdef Backlogs *backlogs = lane.backlogs
    cdef PortOps *egress = backlog.egress
    cdef const Delivery *delivery = &backlogs.delivery
    cdef uint32_t done
    lane.delivering, lane.at = delivery, exit
    if delivery.needs & ~egress.accepts & CUT_NEEDS:
        done = deliver_cut(lane.cutter, &backlogs.super, egress, backlog.pair, delivery)
    else:
        done = min(delivery.n, egress.deliver_burst(egress, backlog.pair, delivery))
    lane.at = NULL
    return done


cdef void lay_out(Backlogs *backlogs, const Backlog *backlog) noexcept nogil:
    """The first frames of a backlog, as many as a burst has; one, where there was no room for any before."""
    cdef uint32_t i, n = 1 if backlog.stalled else min(backlog.n, <uint32_t>BURST), used = 0, needs = 0, block = 0
    cdef const Waiting *waiting
    cdef Frame *frame
    for i in range(n):
        waiting, frame = waiting_at(backlog, i), &backlogs.frames[i]
        frame.bytes, frame.ticket, frame.first_segment, frame.head = waiting.bytes, 0, used, 0
        list_blocks(backlogs, backlog, block, waiting, &backlogs.segments[used])
        frame.data, frame.n_segments = backlogs.segments[used].data, <unsigned short>waiting.n_blocks
        if waiting.head.needs:
            frame.head = <unsigned short>(i + 1)
            backlogs.heads[i + 1] = waiting.head
            needs |= waiting.head.needs
        used += waiting.n_blocks
        block += waiting.n_blocks
    backlogs.delivery = Delivery(
        n, needs, &backlogs.frames[0], &backlogs.segments[0], &backlogs.heads[0], NULL, True, False
    )


cdef void shorten(Backlogs *backlogs, Backlog *backlog) noexcept nogil:
    """Make what is left of the first frame a super-frame of its own: its headers stand right before the rest."""
    cdef Super *super = &backlogs.super
    cdef Waiting *frame = waiting_at(backlog, 0)
    cdef uint8_t header[MOST_CUT_HEADER_BYTES]
    cdef Segment alone = Segment(&header[0], 0)
    cdef Cursor source = Cursor(&alone, 0), to = Cursor(&backlogs.segments[0], 0)
    super.begun = False
    if super.at == 0:
        return
    alone.bytes = write_rest_header(super, header)
    frame.skip += super.at
    frame.bytes -= super.at
    while frame.skip >= <uint32_t>BLOCK_BYTES:
        frame.skip -= BLOCK_BYTES
        frame.n_blocks -= 1
        give_blocks(backlogs, backlog, 1)
    list_blocks(backlogs, backlog, 0, frame, &backlogs.segments[0])
    copy_at(&to, &source, alone.bytes)


cdef uint32_t n_late(const Backlog *backlog) noexcept nogil:
    """How many frames, from the first on, have waited for too long."""
    cdef uint64_t now = monotonic_ns()
    cdef uint32_t n = 0
    while n < backlog.n and waiting_at(backlog, n).until <= now:
        n += 1
    return n


# Taking frames


cdef uint32_t keep(Lane *lane, const Exit *exit, uint32_t pair, const Delivery *rest) noexcept nogil:
    """Copy frames behind those that wait for their queue. Returns how many there was room for, from the first on.

    Of a super-frame whose first pieces are delivered (lane.super), the rest.
    """
    cdef Backlogs *backlogs = lane.backlogs
    cdef Backlog *backlog = find_backlog(backlogs, exit.egress, pair)
    cdef uint64_t until
    cdef uint32_t i = 0
    if backlog == NULL:
        backlog = open_backlog(backlogs, exit.egress, pair)
    if backlog == NULL or backlog.n == BACKLOG_FRAMES:
        return 0
    until = monotonic_ns() + lane.hold_ns
    if rest.starts != NULL:
        rest = splice(&lane.learner.splicer, rest)
    if lane.super.begun:
        i = append_rest(lane, backlog, rest, until)
        if i == 0:
            return 0 if backlog.n else shut(backlogs, backlog)
    while i < rest.n and append(lane, backlog, rest, i, until):
        i += 1
    return i if backlog.n else shut(backlogs, backlog)


cdef bint append(Lane *lane, Backlog *backlog, const Delivery *delivery, uint32_t i, uint64_t until) noexcept nogil:
    """Copy a frame. False: there is no room."""
    cdef Backlogs *backlogs = lane.backlogs
    cdef const Frame *frame = &delivery.frames[i]
    cdef Segment alone
    cdef Cursor source = cursor_of(frame, delivery.segments, &alone), to = Cursor(&backlogs.segments[0], 0)
    if not add(backlogs, backlog, frame.bytes, &delivery.heads[frame.head], until, lane):
        return False
    copy_at(&to, &source, frame.bytes)
    return True


cdef bint append_rest(Lane *lane, Backlog *backlog, const Delivery *delivery, uint64_t until) noexcept nogil:
    """Copy what is left of the first frame, behind headers for it. False: there is no room."""
    cdef Backlogs *backlogs = lane.backlogs
    cdef const Super *super = &lane.super
    cdef const Frame *frame = &delivery.frames[0]
    cdef uint8_t header[MOST_CUT_HEADER_BYTES]
    cdef Segment own = Segment(&header[0], write_rest_header(super, header)), alone
    cdef Cursor first = Cursor(&own, 0), to = Cursor(&backlogs.segments[0], 0)
    cdef Cursor source = cursor_of(frame, delivery.segments, &alone)
    source = Cursor(source.segment + super.segment, super.offset)
    if not add(backlogs, backlog, super.bytes - super.at, &delivery.heads[frame.head], until, lane):
        return False
    copy_at(&to, &first, own.bytes)
    copy_at(&to, &source, super.bytes - super.at - own.bytes)
    return True


cdef bint add(
    Backlogs *backlogs, Backlog *backlog, uint32_t bytes, const Head *head, uint64_t until, const void *lane
) noexcept nogil:
    """Take blocks for a frame; the first segments of the backlogs say where they are. False: there is no room."""
    cdef uint32_t i, end, n_blocks = (bytes + <uint32_t>(BLOCK_BYTES - 1)) // <uint32_t>BLOCK_BYTES
    cdef Waiting *frame = waiting_at(backlog, backlog.n)
    if backlog.n == BACKLOG_FRAMES or backlog.n_blocks + n_blocks > BACKLOG_BLOCKS:
        return False
    if backlogs.n_used - backlogs.n_free + n_blocks > POOL_BLOCKS:
        return False
    end = backlog.n_blocks
    for i in range(n_blocks):
        backlog.blocks[(backlog.first_block + end + i) & (BACKLOG_BLOCKS - 1)] = take_block(backlogs)
    frame[0] = Waiting(until, bytes, 0, n_blocks, lane, head[0])
    backlog.n += 1
    backlog.n_blocks += n_blocks
    backlogs.n_frames += 1
    list_blocks(backlogs, backlog, end, frame, &backlogs.segments[0])
    return True


cdef void take_off(Backlogs *backlogs, Backlog *backlog, uint32_t n) noexcept nogil:
    """The first n frames are dealt with. A backlog without frames is closed."""
    cdef uint32_t i, n_blocks = 0
    check(n <= backlog.n, "backlog: no more frames leave it than it has")
    for i in range(n):
        n_blocks += waiting_at(backlog, i).n_blocks
    give_blocks(backlogs, backlog, n_blocks)
    backlog.first = (backlog.first + n) & (BACKLOG_FRAMES - 1)
    backlog.n -= n
    backlogs.n_frames -= n
    if n and backlog.n == 0:
        shut(backlogs, backlog)


cdef void give_up(const AllBacklogs *backlogs, const PortOps *egress, DropReason reason) noexcept nogil:
    """Frames that wait for a port, in backlogs of any worker, are dropped."""
    cdef uint32_t i
    for i in range(backlogs.n):
        give_up_backlogs(backlogs.of[i], egress, reason)


cdef void give_up_backlogs(Backlogs *backlogs, const PortOps *egress, DropReason reason) noexcept nogil:
    """Drop what waits for a port that leaves. While the worker is at the door."""
    cdef Backlog *backlog
    cdef uint32_t i = 0
    while i < backlogs.n_open:
        backlog = backlogs.at[i]
        if backlog.egress == egress:
            count_drops(&backlog.egress.tx[backlog.pair], reason, backlog.n)
            take_off(backlogs, backlog, backlog.n)
        else:
            i += 1
