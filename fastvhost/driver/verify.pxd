"""Received frames of a burst, looked at and counted."""

from libc.stdint cimport uint32_t

from fastvhost.driver.device cimport Pair
from fastvhost.driver.queue cimport Completion


# Returns the buffers looked at: a frame cut off by the burst's end is left, and its buffers are not taken yet.
cdef uint32_t verify_burst(Pair *side, const Completion *done, uint32_t n) noexcept nogil
