"""Received frames of a burst, looked at and counted."""

from libc.stdint cimport uint32_t

from fastvhost.driver.device cimport Side
from fastvhost.driver.queue cimport Completion


# Returns the buffers looked at: a frame cut off by the burst's end is left, and its buffers are not taken yet.
cdef uint32_t verify_burst(Side *side, const Completion *done, uint32_t n) noexcept nogil
