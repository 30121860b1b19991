"""Verifies and counts the received frames of a burst."""

from libc.stdint cimport uint32_t

from fastvhost.driver.device cimport Pair
from fastvhost.driver.queue cimport Completion


# Returns how many buffers are done with. A frame that continues after the burst's end is left for the next one: its
# buffers are untaken.
cdef uint32_t verify_burst(Pair *side, const Completion *done, uint32_t n) noexcept nogil
