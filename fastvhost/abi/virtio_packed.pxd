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
