"""The marks of a packed ring's descriptors (virtio 1.2, section 2.8.1), and how its places and tickets are written.

A *place* is an index and, in bit 15, the wrap counter that belongs to it. journal.pxd uses places, and each half of a
packed ring's base is one.
"""

from libc.stdint cimport uint16_t, uint32_t

from fastvhost.abi.virtio_packed cimport VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED
from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.ring cimport Ring

cdef enum:
    BOTH_FLAGS = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
    SLOTS_SHIFT = 16         # in the ticket of a chain: above its buffer id, the descriptors that it takes up


cdef inline uint16_t place_of(uint32_t index, bint wrap) noexcept nogil:
    return <uint16_t>(index | <uint32_t>wrap << 15)


cdef inline bint is_available(uint16_t flags, bint wrap) noexcept nogil:
    return (flags & BOTH_FLAGS) == (VIRTQ_DESC_F_AVAIL if wrap else VIRTQ_DESC_F_USED)


cdef inline void check_counts(const Ring *ring) noexcept nogil:
    check(ring.next_avail < ring.size, "packed ring: the next available descriptor is in it")
    check(ring.next_used < ring.size, "packed ring: the next used descriptor is in it")
    check(ring.published < ring.size, "packed ring: the first staged descriptor is in it")
    check(
        ring.outstanding + ring.staged <= ring.size,
        "packed ring: no more is outstanding and staged than it has descriptors",
    )
