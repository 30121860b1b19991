"""The device side of one split virtqueue. Virtio 1.2, section 2.7. The contract is ring.pxd's."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.ring cimport Ring


cdef void reset_split_ring(Ring *ring, uint32_t base) noexcept nogil
cdef uint32_t split_ring_base(const Ring *ring) noexcept nogil
cdef void rewind_split_ring(Ring *ring) noexcept nogil
