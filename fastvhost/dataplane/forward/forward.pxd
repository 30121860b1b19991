"""One visit of a lane: receive, police, plan, deliver to each exit, release."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.lane cimport Lane


cdef uint32_t forward_burst(Lane *lane) noexcept nogil


cdef inline bint is_between_exits(const Lane *lane) noexcept nogil:
    """Whether a visit stopped where some egresses have frames that others still have to get."""
    return lane.exit < lane.n_exits and not lane.exits[lane.exit].in_place
