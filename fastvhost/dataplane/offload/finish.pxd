"""A frame as an interface takes it that does nothing itself: in one piece, with its checksum. Virtio 1.2, 5.1.6.2."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.dataplane.frame cimport NEED_CSUM, Delivery, Frame, Head, copy_frame

cdef extern from "fastvhost/dataplane/offload/checksum.h" nogil:
    uint64_t add_bytes(const uint8_t *at, uint32_t n, uint64_t sum)
    uint16_t fold_transport(uint64_t sum)


cdef inline void copy_finished(uint8_t *to, const Delivery *delivery, const Frame *frame) noexcept nogil:
    """All of a frame to memory of ours that nobody else writes meanwhile."""
    cdef const Head *head = &delivery.heads[frame.head]
    cdef uint16_t checksum
    copy_frame(to, frame, delivery.segments)
    if head.needs & NEED_CSUM:
        checksum = fold_transport(add_bytes(to + head.net.csum_start, frame.bytes - head.net.csum_start, 0))
        memcpy(to + head.net.csum_start + head.net.csum_offset, &checksum, 2)
