"""Frames in a backlog go with their lane when it gets another worker: later ones of their flow stay behind them."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.waiting cimport Backlogs


# A share of a wire's lanes, and whose backlogs its frames wait in before and after the move.
cdef struct MovedLanes:
    const Lane *lanes
    uint32_t n_lanes
    uint32_t share
    uint32_t shares
    Backlogs *giver
    Backlogs *taker


cdef bint may_go_along(const MovedLanes *moved, uint32_t n) noexcept nogil
cdef void take_along(const MovedLanes *moved) noexcept nogil
