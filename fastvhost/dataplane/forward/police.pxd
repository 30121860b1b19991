"""Limits of what a port may send, in bits and in frames a second: what is beyond waits in the sender's ring."""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.forward.lane cimport Lane


cdef enum:
    # How often a lane at its limit is visited, at most: a visit of one frame costs ten times as much as one in a burst.
    LEAST_REST_NS = 50 * 1000


cdef bint police(Lane *lane) noexcept nogil
cdef uint64_t rests_for(const Lane *lane) noexcept nogil
