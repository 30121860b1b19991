"""The device side of one packed virtqueue. Virtio 1.2, section 2.8. The contract is ring.pxd's."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.ring cimport Ring


cdef uint32_t packed_ring_start(const Ring *ring, uint32_t base) noexcept nogil
cdef void reset_packed_ring(Ring *ring, uint32_t base) noexcept nogil
cdef uint32_t packed_ring_base(const Ring *ring) noexcept nogil
cdef void rewind_packed_ring(Ring *ring) noexcept nogil
