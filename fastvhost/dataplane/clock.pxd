"""The clocks that the data plane measures with."""

from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "fastvhost/dataplane/ticks.h" nogil:
    uint64_t read_ticks() noexcept


cdef inline uint64_t monotonic_ns() noexcept nogil:
    """Nanoseconds since some moment, never less than before. clock_gettime(2), CLOCK_MONOTONIC."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
