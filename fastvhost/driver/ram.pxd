"""A guest's memory as its driver sees it."""

from libc.stdint cimport uint8_t, uint64_t


cdef class GuestRam:
    cdef readonly int fd
    cdef readonly uint64_t guest_addr
    cdef readonly uint64_t bytes
    cdef readonly bint huge
    cdef uint8_t *data
    cdef uint64_t taken
    cdef bint lent             # a device uses it, and closes it
    cdef bint written          # by write(): its rings may contain what no driver wrote
    cdef int let_go(self) except -1

    cdef bint _map(self, bint huge) except -1
    cdef uint8_t *allot(self, uint64_t n_bytes, uint64_t alignment) except NULL
    cdef uint64_t guest_of(self, const void *p) noexcept nogil
