"""The split virtqueue's layout. Virtio 1.2, section 2.7; the C names are those of <linux/virtio_ring.h>."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "<linux/virtio_ring.h>" nogil:
    ctypedef struct virtq_desc "struct vring_desc":
        uint64_t addr
        uint32_t len
        uint16_t flags
        uint16_t next

    ctypedef struct virtq_avail "struct vring_avail":
        uint16_t flags
        uint16_t idx
        uint16_t ring[0]

    ctypedef struct virtq_used_elem "struct vring_used_elem":
        uint32_t id
        uint32_t len

    ctypedef struct virtq_used "struct vring_used":
        uint16_t flags
        uint16_t idx
        virtq_used_elem ring[0]

    const uint16_t VIRTQ_DESC_F_NEXT "VRING_DESC_F_NEXT"
    const uint16_t VIRTQ_DESC_F_WRITE "VRING_DESC_F_WRITE"
    const uint16_t VIRTQ_DESC_F_INDIRECT "VRING_DESC_F_INDIRECT"
    const uint16_t VIRTQ_AVAIL_F_NO_INTERRUPT "VRING_AVAIL_F_NO_INTERRUPT"
    const uint16_t VIRTQ_USED_F_NO_NOTIFY "VRING_USED_F_NO_NOTIFY"


# Virtio 1.2, section 2.7: the queue size is a power of two, 32768 at the most.
cdef enum:
    VIRTQ_MAX_SIZE = 32768
    VIRTQ_DESC_BYTES = 16
