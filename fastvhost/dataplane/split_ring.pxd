"""The device side of one split virtqueue. Virtio 1.2, section 2.7.

take looks at available chains without moving the cursor; consume moves it; complete stages used entries; publish makes
them visible with one store and says whether the driver wants a notification. One publication per burst.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.abi.virtio_ring cimport virtq_avail, virtq_desc, virtq_used
from fastvhost.dataplane.frame cimport Chain, Segment
from fastvhost.dataplane.guest_memory cimport RegionTable


cdef enum RingStatus:
    RING_OK
    RING_AVAIL_JUMP
    RING_HEAD_BEYOND_QUEUE
    RING_NEXT_BEYOND_TABLE
    RING_LOOP
    RING_ADDRESS_OUTSIDE_MEMORY
    RING_READABLE_IN_RECEIVEQ
    RING_WRITABLE_IN_TRANSMITQ
    RING_INDIRECT_NOT_NEGOTIATED
    RING_INDIRECT_NESTED
    RING_INDIRECT_TABLE_SIZE
    RING_RECEIVE_CHAIN_TOO_SHORT
    RING_RECEIVE_CHAIN_PIECES
    RING_OUTSIDE_MEMORY
    N_RING_STATUS


cdef struct SplitRing:
    # set through the door
    virtq_desc *desc
    virtq_avail *avail
    virtq_used *used
    const RegionTable *table
    uint16_t size
    uint16_t direction         # VIRTQ_DESC_F_WRITE for a receiveq, 0 for a transmitq: what each descriptor must say
    bint indirect
    bint event_idx
    # written by its worker
    uint16_t next_avail        # the next entry of the available ring to look at
    uint16_t next_used         # the next entry of the used ring to fill
    uint16_t published_used    # used.idx as the driver sees it
    uint16_t outstanding       # consumed, not yet completed
    uint32_t hot_region        # where the last address was found
    RingStatus status          # sticky: a ring that broke its rules stays stopped until it is set up again


cdef void reset_ring(SplitRing *ring, uint16_t base) noexcept nogil
cdef uint32_t take(
    SplitRing *ring, uint32_t skip, Chain *chains, uint32_t most, Segment *segments, uint32_t *n_segments
) noexcept nogil
cdef void complete_taken(SplitRing *ring, const uint16_t *heads, uint32_t n) noexcept nogil
cdef bint publish(SplitRing *ring) noexcept nogil


cdef inline uint16_t *used_event(const SplitRing *ring) noexcept nogil:
    """Behind the available ring: the driver asks to be notified once this entry is used. Section 2.7.10."""
    return &ring.avail.ring[ring.size]


cdef inline uint16_t *avail_event(const SplitRing *ring) noexcept nogil:
    """Behind the used ring: the device asks to be kicked once this entry is available. Section 2.7.10."""
    return <uint16_t *>&ring.used.ring[ring.size]
