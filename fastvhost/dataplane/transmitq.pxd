"""Frames out of transmitted chains. Virtio 1.2, section 5.1.6.2."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.frame cimport FrameBurst
from fastvhost.dataplane.tally cimport Tally


cdef uint32_t strip_headers(
    FrameBurst *burst, uint32_t n, uint32_t header_bytes, uint32_t allowed, Tally *tally
) noexcept nogil
