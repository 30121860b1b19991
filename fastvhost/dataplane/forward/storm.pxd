"""Storm control: how many frames a second a port may send to everybody."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.lane cimport Lane


cdef void calm(Lane *lane, uint32_t n) noexcept nogil
