"""A load, for C that steps it together with what else takes turns on its CPU."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastvhost.driver.content cimport Stream
from fastvhost.driver.device cimport Pair

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents


cdef class Load:
    cdef tuple devices
    cdef Pair **sides
    cdef pollfd *calls
    cdef uint32_t n_sides
    cdef uint32_t phase
    cdef bint sleeps
    cdef uint64_t n_naps
    cdef uint64_t n_stalls
    cdef list begin(self)
    cdef int end(self, list begun) except -1
    cdef uint32_t take_turn(self) noexcept nogil
    cdef void nap(self) noexcept nogil
    cdef bint something_used(self) noexcept nogil
    cdef int pick(
        self, const Stream *stream, double seconds, double frames_per_second, int64_t *samples, int limit,
        uint64_t *sent_before, uint64_t *received,
    ) noexcept nogil
