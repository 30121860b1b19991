"""The packed virtqueue's layout. Virtio 1.2, section 2.8; the C names are those of <linux/virtio_ring.h>."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "<linux/virtio_ring.h>" nogil:
    ctypedef struct pvirtq_desc "struct vring_packed_desc":
        uint64_t addr
        uint32_t len
        uint16_t id
        uint16_t flags

    ctypedef struct pvirtq_event_suppress "struct vring_packed_desc_event":
        uint16_t off_wrap
        uint16_t flags

    enum:
        RING_EVENT_FLAGS_ENABLE "VRING_PACKED_EVENT_FLAG_ENABLE"
        RING_EVENT_FLAGS_DISABLE "VRING_PACKED_EVENT_FLAG_DISABLE"
        RING_EVENT_FLAGS_DESC "VRING_PACKED_EVENT_FLAG_DESC"
        RING_EVENT_WRAP_BIT "VRING_PACKED_EVENT_F_WRAP_CTR"


cdef enum:
    VIRTQ_DESC_F_AVAIL = 1 << 7
    VIRTQ_DESC_F_USED = 1 << 15


# A descriptor's second eight bytes as one word, its tail: len, id, flags.
cdef enum:
    TAIL_ID_SHIFT = 32
    TAIL_FLAGS_SHIFT = 48


cdef inline uint64_t tail_of(uint32_t n_bytes, uint16_t buffer_id, uint16_t flags) noexcept nogil:
    return n_bytes | <uint64_t>buffer_id << TAIL_ID_SHIFT | <uint64_t>flags << TAIL_FLAGS_SHIFT
