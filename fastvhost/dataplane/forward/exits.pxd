"""An exit more for the visit under way, at a port of a switch."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.frame cimport Delivery, Frame, Head, Start


cdef inline Delivery delivery_with(
    const Lane *lane, const Frame *frames, const Start *starts, uint32_t n, const Head *heads, bint uneven
) noexcept nogil:
    """n frames with their starts: one for all where frames of the visit are alike."""
    return Delivery(n, lane.burst.needs, frames, lane.burst.segments, heads, starts, lane.learner.alike, uneven)


cdef inline void add_exit(Lane *lane, uint32_t port, Delivery delivery, bint in_place, bint flooded) noexcept nogil:
    """in_place: see Exit."""
    lane.exits[lane.n_exits] = Exit(
        lane.learner.members.at[port].port, delivery, False, in_place, False, lane.hold and not flooded
    )
    lane.n_exits += 1
