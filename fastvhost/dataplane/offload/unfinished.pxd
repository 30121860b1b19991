"""Checksums that a neighbouring stack left to a card without saying so: the frame gets the head that is missing."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastvhost.abi.virtio_net cimport NET_HDR_F_NEEDS_CSUM, NetHeader
from fastvhost.dataplane.frame cimport NEED_CSUM, Frame, FrameBurst, Head
from fastvhost.dataplane.offload.header cimport next_head

cdef extern from "fastvhost/dataplane/offload/unfinished.h" nogil:
    struct unfinished_sum:
        uint32_t start
        uint32_t end
        uint32_t offset
    bint find_unfinished(const uint8_t *frame, uint32_t bytes, unfinished_sum *found)
    void finish_checksum(uint8_t *frame, const unfinished_sum *found)


cdef inline void look_for_unfinished(FrameBurst *burst, Frame *frame) noexcept nogil:
    """Of a frame in one piece, in memory that is ours."""
    cdef unfinished_sum found
    if not find_unfinished(frame.data, frame.bytes, &found):
        return
    if found.end != frame.bytes:
        finish_checksum(frame.data, &found)  # a head would have the padding summed as well
        return
    next_head(burst)[0] = Head(
        NetHeader(NET_HDR_F_NEEDS_CSUM, 0, 0, 0, <uint16_t>found.start, <uint16_t>found.offset, 1), NEED_CSUM
    )
    burst.n_heads += 1
    burst.needs |= NEED_CSUM
    frame.head = <uint16_t>burst.n_heads
