"""One burst from an ingress to its egress: receive, deliver, release.

A visit moves a burst, or as much of it as its budget of payload lets through (VISIT_BYTES); the rest waits for the next
visit. Pieces are budgeted where they are found: when chains are taken from a ring.

The forwarder never asks what kind a port is. A frame that the egress has no room for stays in the burst, and its chain
with the ingress guest, who then finds its transmitq full: back-pressure instead of loss.
No count of a port's is taken on trust. A port that says it dealt with more frames than it was given has dealt with
those; no more chains than were received are ever released.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.debug cimport check, poison
from fastvhost.dataplane.drop_reason cimport NO_EGRESS, NO_RECEIVE_BUFFERS
from fastvhost.dataplane.frame cimport BURST, VISIT_BYTES, Delivery, Frame, delivery_of
from fastvhost.dataplane.offload.cut cimport CUT_NEEDS, deliver_cut
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.tally cimport count_drops


cdef uint32_t forward_burst(Lane *lane) noexcept nogil:
    """Move one burst on. Returns the frames that were delivered or dropped; 1, too, where it was a part of one."""
    cdef PortOps *ingress = lane.ingress
    cdef PortOps *egress = lane.egress
    cdef uint32_t waiting = lane.burst.n_frames - lane.first, done
    cdef uint32_t egress_pair
    cdef uint64_t bytes, spent, segmented
    cdef uint32_t part = 0
    cdef Delivery delivery

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
            return 0
        lane.epoch = ingress.epoch
        lane.due = waiting
        if ingress.rx[lane.pair].bytes - bytes > VISIT_BYTES:
            lane.due = end_of_visit(lane)
    elif lane.first == lane.due:
        lane.due = end_of_visit(lane)
    waiting = lane.due - lane.first
    check(lane.first < lane.due, "forward: a visit has a frame")
    check(lane.due <= lane.burst.n_frames, "forward: a visit ends with its burst")
    check(lane.burst.n_frames <= BURST, "forward: a burst has room for its frames")

    if egress == NULL:
        count_drops(&ingress.rx[lane.pair], NO_EGRESS, waiting)
        done = waiting
    else:
        egress_pair = pair_of(lane)
        spent = egress.tx[egress_pair].spent
        delivery = delivery_of(&lane.burst, lane.first, waiting)
        lane.delivers = True
        if lane.burst.needs and (lane.super.begun or lane.burst.needs & ~egress.accepts & CUT_NEEDS):
            segmented = egress.tx[egress_pair].segmented
            if lane.super.life != ingress.lives:
                lane.super.life, lane.super.forgotten = ingress.lives, False
            done = deliver_cut(lane.cutter, &lane.super, egress, egress_pair, &delivery)
            part = done == 0 and egress.tx[egress_pair].segmented != segmented
        else:
            done = min(waiting, egress.deliver_burst(egress, egress_pair, &delivery))
        lane.delivers = False
        if done or part:
            lane.stalled_since = 0
        elif not may_wait(lane, egress.tx[egress_pair].frames):
            count_drops(&egress.tx[egress_pair], NO_RECEIVE_BUFFERS, waiting)
            done = waiting
            lane.super.begun = False
        if done < waiting and not lane.hold and spent == egress.tx[egress_pair].spent:
            count_drops(&egress.tx[egress_pair], NO_RECEIVE_BUFFERS, waiting - done)
            done = waiting
            lane.super.begun = False
    if done:
        ingress.release_burst(ingress, lane.pair, &lane.burst.done[lane.first], done)
        poison(&lane.burst.frames[lane.first], done * sizeof(Frame))
        lane.first += done
        lane.super.forgotten = False
    return done if done else part


cdef uint32_t end_of_visit(const Lane *lane) noexcept nogil:
    """Behind the last of the waiting frames that the budget of bytes lets through now: one at least."""
    cdef uint32_t end = lane.first + 1, bytes = lane.burst.frames[lane.first].bytes
    while end < lane.burst.n_frames:
        bytes += lane.burst.frames[end].bytes
        if bytes > VISIT_BYTES:
            break
        end += 1
    return end


cdef inline uint32_t pair_of(const Lane *lane) noexcept nogil:
    """The pair of the egress that this lane delivers to. A port without active pairs is a port with one."""
    cdef uint32_t active = max(lane.egress.active_pairs, 1)
    return lane.pair if lane.pair < active else lane.pair % active


cdef bint may_wait(Lane *lane, uint64_t progress) noexcept nogil:
    """The egress took nothing: whether its time without progress is still short enough to wait on.

    Progress is measured per receive queue: a lane goes on waiting while other lanes still get frames into it.
    """
    cdef uint64_t now
    if not lane.hold:
        return False
    now = monotonic_ns()
    if lane.stalled_since == 0 or lane.progress != progress:
        lane.stalled_since, lane.progress = now, progress
    return now - lane.stalled_since < lane.hold_ns


cdef void forget_burst(Lane *lane) noexcept nogil:
    """The ingress took its frames back (its memory or queue changed): they will arrive again, so uncount them."""
    cdef uint32_t i
    lane.super.forgotten |= lane.super.begun
    lane.super.begun = False
    for i in range(lane.first, lane.burst.n_frames):
        lane.ingress.rx[lane.pair].bytes -= lane.burst.frames[i].bytes
    lane.ingress.rx[lane.pair].frames -= lane.burst.n_frames - lane.first
    lane.first = lane.burst.n_frames
