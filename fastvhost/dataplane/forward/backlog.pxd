"""Frames for one port of a switch that it has no room for now: copied, so that their sender and all others go on."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.drop_reason cimport DropReason
from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.waiting cimport Backlog, Backlogs
from fastvhost.dataplane.frame cimport Delivery, Head
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.roster cimport Roster


cdef enum:
    BACKLOGS_A_ROUND = 8     # are looked at in a round: each costs a look at a ring, and the clock


# Those of several workers, for changes while these are at the door.
cdef struct AllBacklogs:
    Backlogs **of              # each worker
    uint32_t n


cdef Backlogs *make_backlogs() noexcept nogil
cdef void discard_backlogs(Backlogs *backlogs) noexcept nogil
cdef bint is_behind(Lane *lane, const Exit *exit, uint32_t pair) noexcept nogil
cdef uint32_t keep(Lane *lane, const Exit *exit, uint32_t pair, const Delivery *rest) noexcept nogil
cdef uint32_t drain_some(Backlogs *backlogs, Roster *roster, Lane *lane) noexcept nogil
cdef bint add(
    Backlogs *backlogs, Backlog *backlog, uint32_t bytes, const Head *head, uint64_t until, const void *lane
) noexcept nogil
cdef void give_up(const AllBacklogs *backlogs, const PortOps *egress, DropReason reason) noexcept nogil
