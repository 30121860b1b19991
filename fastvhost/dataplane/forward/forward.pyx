"""One visit of a lane: receive, police, plan, deliver to each exit, release.

A visit moves a burst, or as much of it as its budget of payload lets through (VISIT_BYTES); the rest waits for the next
visit. Pieces are budgeted where they are found: when chains are taken from a ring.

The forwarder never asks what kind a port is. Where frames may wait (`patch`), one that the egress has no room for stays
in the burst, and its chain with the ingress guest, who then finds its transmitq full: back-pressure instead of loss.
In a switch one for a single port is copied into a backlog (forward/backlog).
No count of a port's is taken on trust. A port that says it dealt with more frames than it was given has dealt with
those; no more chains than were received are ever released.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.debug cimport check, poison
from fastvhost.dataplane.delivery_lock cimport DeliveryLock, count_missed, give_lock, take_lock
from fastvhost.dataplane.drop_reason cimport MIRROR_FULL, NO_RECEIVE_BUFFERS
from fastvhost.dataplane.forward.backlog cimport is_behind, keep
from fastvhost.dataplane.forward.lane cimport Exit, Lane
from fastvhost.dataplane.forward.police cimport police
from fastvhost.dataplane.forward.starts cimport splice
from fastvhost.dataplane.frame cimport BURST, VISIT_BYTES, Delivery, Frame, part_of
from fastvhost.dataplane.offload.cut cimport CUT_NEEDS, deliver_cut
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.tally cimport Tally, count_drops


cdef uint32_t forward_burst(Lane *lane) noexcept nogil:
    """Move one burst on. Returns the frames that were delivered or dropped; 1, too, where it was a part of one."""
    cdef uint32_t left, done, moved = 0
    cdef Exit *exit
    if not begin_visit(lane):
        return 0
    if lane.exit == lane.n_exits:
        if lane.limit != NULL and not police(lane):
            return 0
        lane.exit = 0
        lane.plan(lane)
    done = lane.due - lane.first
    while lane.exit < lane.n_exits:
        exit = &lane.exits[lane.exit]
        left = exit.delivery.n
        if exit.egress.shared:
            deliver_in_turn(lane, exit, pair_of(lane, exit.egress), &moved)
        else:
            deliver(lane, exit, pair_of(lane, exit.egress), &moved)
        if exit.delivery.n:
            done = left - exit.delivery.n if exit.in_place else 0
            break
        lane.exit += 1
    if done:
        lane.ingress.release_burst(lane.ingress, lane.pair, &lane.burst.done[lane.first], done)
        poison(&lane.burst.frames[lane.first], done * sizeof(Frame))
        lane.first += done
        lane.super.forgotten = False
    return done if done else moved


cdef inline bint begin_visit(Lane *lane) noexcept nogil:
    """Receive a burst, unless frames of one wait, and see which of them this visit may move. Whether there are any."""
    cdef PortOps *ingress = lane.ingress
    cdef uint32_t waiting = lane.burst.n_frames - lane.first
    cdef uint64_t bytes
    if waiting and lane.epoch != ingress.epoch:
        forget_burst(lane)
        waiting = 0
    if waiting == 0:
        lane.burst.n_frames = lane.first = 0
        poison(lane.burst.frames, sizeof(lane.burst.frames))
        poison(lane.burst.done, sizeof(lane.burst.done))
        bytes = ingress.rx[lane.pair].bytes
        waiting = ingress.receive_burst(ingress, lane.pair, &lane.burst)
        waiting = min(waiting, min(lane.burst.n_frames, <uint32_t>BURST))
        lane.burst.n_frames = waiting
        if waiting == 0:
            return False
        lane.epoch = ingress.epoch
        lane.due = waiting
        if ingress.rx[lane.pair].bytes - bytes > VISIT_BYTES:
            lane.due = end_of_visit(lane)
    elif lane.first == lane.due:
        lane.due = end_of_visit(lane)
    check(lane.first < lane.due, "forward: a visit has a frame")
    check(lane.due <= lane.burst.n_frames, "forward: a visit ends with its burst")
    check(lane.burst.n_frames <= BURST, "forward: a burst has room for its frames")
    return True


cdef void deliver_in_turn(Lane *lane, Exit *exit, uint32_t pair, uint32_t *moved) noexcept nogil:
    """The same at a queue that other workers deliver to as well. One of them that has it for too long stops nobody.

    pair: while the lock is waited for, the port may change (door, stand_in); its active pairs are not read again.
    """
    cdef DeliveryLock *lock = &exit.egress.locks[pair]
    cdef uint32_t n
    if take_lock(lock):
        deliver(lane, exit, pair, moved)
        give_lock(lock)
        return
    n = exit.delivery.n
    count_missed(lock, n - (keep(lane, exit, pair, &exit.delivery) if exit.queued else 0))
    exit.delivery.n = 0
    lane.super.begun = False


cdef inline void deliver(Lane *lane, Exit *exit, uint32_t pair, uint32_t *moved) noexcept nogil:
    """Deliver an exit's frames, and take those off that are dealt with. moved: 1 where anything was."""
    cdef PortOps *egress = exit.egress
    cdef uint32_t n = exit.delivery.n, done
    cdef const Delivery *delivery = &exit.delivery
    cdef Tally *tally = &egress.tx[pair]
    cdef uint64_t spent = tally.spent, segmented
    cdef bint part = False, cut
    cut = delivery.needs != 0 and (lane.super.begun or delivery.needs & ~egress.accepts & CUT_NEEDS)
    if delivery.starts != NULL:
        if lane.backlogs.n_open and is_behind(lane, exit, pair):
            leave_rest(lane, exit, pair, delivery, 0)
            moved[0] = 1
            return
        spent = tally.spent
        if cut or delivery.uneven or not egress.takes_starts:
            delivery = splice(&lane.learner.splicer, delivery)
    lane.delivering, lane.at = delivery, exit
    if cut:
        segmented = tally.segmented
        if lane.super.life != lane.ingress.lives:
            lane.super.life, lane.super.forgotten = lane.ingress.lives, False
        done = deliver_cut(lane.cutter, &lane.super, egress, pair, delivery)
        part = done == 0 and tally.segmented != segmented
    else:
        done = min(n, egress.deliver_burst(egress, pair, delivery))
    lane.at = NULL
    if done or part:
        lane.stalled_since = 0
        moved[0] = 1
    elif not may_wait(lane, exit, tally.frames):
        leave_rest(lane, exit, pair, delivery, 0)
        return
    if done < n and not exit.may_wait and (exit.spare or spent == tally.spent):
        leave_rest(lane, exit, pair, delivery, done)
        return
    exit.delivery = part_of(&exit.delivery, done, n - done)


cdef void leave_rest(
    Lane *lane, Exit *exit, uint32_t pair, const Delivery *delivery, uint32_t done
) noexcept nogil:
    """What an egress has no room for is copied into a backlog, where there is room, or dropped."""
    cdef uint32_t n = delivery.n - done
    cdef Delivery rest = part_of(delivery, done, n)
    if exit.queued:
        n -= keep(lane, exit, pair, &rest)
    count_drops(&exit.egress.tx[pair], MIRROR_FULL if exit.spare else NO_RECEIVE_BUFFERS, n)
    lane.super.begun = False
    exit.delivery.n = 0


cdef uint32_t end_of_visit(const Lane *lane) noexcept nogil:
    """Behind the last of the waiting frames that the budget of bytes lets through now: one at least."""
    cdef uint32_t end = lane.first + 1, bytes = lane.burst.frames[lane.first].bytes
    while end < lane.burst.n_frames:
        bytes += lane.burst.frames[end].bytes
        if bytes > VISIT_BYTES:
            break
        end += 1
    return end


cdef inline uint32_t pair_of(const Lane *lane, const PortOps *egress) noexcept nogil:
    """The pair of the egress that this lane delivers to. A port without active pairs is a port with one."""
    cdef uint32_t active = max(egress.active_pairs, 1)
    return lane.pair if lane.pair < active else lane.pair % active


cdef bint may_wait(Lane *lane, const Exit *exit, uint64_t progress) noexcept nogil:
    """The egress took nothing: whether its time without progress is still short enough to wait on.

    Progress is measured per receive queue: a lane goes on waiting while other lanes still get frames into it.
    """
    cdef uint64_t now
    if not exit.may_wait:
        return False
    now = monotonic_ns()
    if lane.stalled_since == 0 or lane.progress != progress:
        lane.stalled_since, lane.progress = now, progress
    return now - lane.stalled_since < lane.hold_ns


cdef void forget_burst(Lane *lane) noexcept nogil:
    """The ingress took its frames back (its memory or queue changed): they will arrive again, so uncount them."""
    cdef uint32_t i
    cdef uint64_t owed = lane.due - lane.first
    for i in range(lane.exit, lane.n_exits):
        owed -= lane.exits[i].delivery.n
    # So that what was received and copied remains what was delivered and dropped. 0 where a frame has one exit.
    lane.ingress.rx[lane.pair].copies += owed
    lane.super.forgotten |= lane.super.begun
    lane.super.begun = False
    lane.exit = lane.n_exits = 0
    for i in range(lane.first, lane.burst.n_frames):
        lane.ingress.rx[lane.pair].bytes -= lane.burst.frames[i].bytes
    lane.ingress.rx[lane.pair].bytes += <uint64_t>((<int64_t>lane.due - lane.first) * lane.gained)
    lane.ingress.rx[lane.pair].frames -= lane.burst.n_frames - lane.first
    lane.first = lane.burst.n_frames
