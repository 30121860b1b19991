"""Going on with a packed ring that another process served before, from what that one noted (journal)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.dataplane.journal cimport Journal
from fastvhost.dataplane.ring cimport Ring


# The position that a journal tells.
cdef struct FoundPlace:
    bint believed            # the ring's flags do not contradict it
    uint16_t place
    uint16_t used            # where an earlier batch begins, which the driver could see
    bint has_used


cdef bint was_in_use(const Ring *ring) noexcept nogil
cdef FoundPlace find_place(const Ring *ring, const Journal *journal) noexcept nogil
cdef void begin_journal(
    Journal *journal, uint64_t descriptor_user_addr, uint64_t driver_user_addr, uint64_t device_user_addr,
    uint32_t size, uint32_t base, const FoundPlace *start
) noexcept nogil
