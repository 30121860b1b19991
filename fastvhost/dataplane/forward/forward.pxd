"""One visit of a lane: receive, plan, deliver to each exit, release."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.lane cimport Lane


cdef uint32_t forward_burst(Lane *lane) noexcept nogil
