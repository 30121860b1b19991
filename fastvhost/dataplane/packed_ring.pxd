"""The device side of one packed virtqueue. Virtio 1.2, section 2.8. The contract is ring.pxd's."""

from libc.stdint cimport uint16_t, uint32_t

from fastvhost.abi.virtio_packed cimport VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED
from fastvhost.dataplane.ring cimport Ring

cdef enum:
    BOTH_FLAGS = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
    SLOTS_SHIFT = 16         # in the ticket of a chain: above its buffer id, the descriptors that it takes up


cdef inline uint16_t place_of(uint32_t index, bint wrap) noexcept nogil:
    """As journal.pxd has it, and each half of a packed ring's base."""
    return <uint16_t>(index | <uint32_t>wrap << 15)


cdef inline bint is_available(uint16_t flags, bint wrap) noexcept nogil:
    return (flags & BOTH_FLAGS) == (VIRTQ_DESC_F_AVAIL if wrap else VIRTQ_DESC_F_USED)


cdef uint32_t packed_ring_start(const Ring *ring, uint32_t base) noexcept nogil
cdef void reset_packed_ring(Ring *ring, uint32_t base) noexcept nogil
cdef uint32_t packed_ring_base(const Ring *ring) noexcept nogil
cdef void rewind_packed_ring(Ring *ring) noexcept nogil
