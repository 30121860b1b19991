"""A checksum that is filled in while its frame is copied: what is summed is what is written. Virtio 1.2, 5.1.6.2.

The field holds the sum of the pseudo-header until then, and is summed like any other word. It is stored last, and may
lie in two pieces.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.dataplane.copy cimport frame_copy, put_header
from fastvhost.dataplane.cursor cimport Cursor, in_one_piece, step
from fastvhost.dataplane.frame cimport Head

cdef extern from "fastvhost/dataplane/offload/checksum.h" nogil:
    uint64_t (*copy_and_sum)(uint8_t *to, const uint8_t *source, uint32_t n)
    uint64_t placed_sum(uint64_t sum, int odd)
    uint16_t fold(uint64_t sum)
    uint16_t fold_transport(uint64_t sum)


# Of a frame's bytes from `start` on, to be stored at `field`.
cdef struct Sum:
    uint32_t start
    uint32_t field
    uint32_t at              # bytes of the frame that are copied
    uint32_t first_copy      # those of the frame, where they are laid out before they are made
    uint32_t n_copies
    uint64_t sum
    uint8_t *stored[2]       # where the two bytes of the field lie by now


cdef inline void begin_sum(Sum *sum, const Head *head) noexcept nogil:
    sum.start, sum.field, sum.at, sum.sum = head.net.csum_start, head.net.csum_start + head.net.csum_offset, 0, 0
    sum.stored[0] = sum.stored[1] = NULL


cdef inline void copy_summed(uint8_t *to, const uint8_t *source, uint32_t bytes, Sum *sum) noexcept nogil:
    """Copy the frame's next bytes."""
    cdef uint32_t before = 0, k
    if sum.at < sum.start:
        before = min(bytes, sum.start - sum.at)
        memcpy(to, source, before)
        sum.at += before
    if before == bytes:
        return
    sum.sum += placed_sum(copy_and_sum(to + before, source + before, bytes - before), (sum.at - sum.start) & 1)
    for k in range(2):
        if sum.field + k - sum.at < bytes - before:
            sum.stored[k] = to + before + (sum.field + k - sum.at)
    sum.at += bytes - before


cdef inline void store_checksum(const Sum *sum) noexcept nogil:
    cdef uint16_t checksum = fold_transport(sum.sum)
    if sum.stored[0] != NULL and sum.stored[1] != NULL:
        sum.stored[0][0], sum.stored[1][0] = (<const uint8_t *>&checksum)[0], (<const uint8_t *>&checksum)[1]


cdef inline void copy_summed_at(Cursor *to, Cursor *source, uint32_t bytes, Sum *sum) noexcept nogil:
    """As copy_at, in cursor."""
    cdef uint32_t left = bytes, piece
    while left:
        piece = in_one_piece(to, source, left)
        copy_summed(to.segment.data + to.offset, source.segment.data + source.offset, piece, sum)
        step(to, source, piece)
        left -= piece


cdef inline void copy_whole_summed(const frame_copy *copy, const Head *head, const Head *plain) noexcept nogil:
    """Copy a frame in one piece, and fill in the checksum that its head asks for."""
    cdef uint32_t start = head.net.csum_start
    cdef uint8_t *to = put_header(copy.to, &plain.net, copy.header_bytes)
    cdef uint16_t checksum
    memcpy(to, copy.from_, start)
    checksum = fold_transport(copy_and_sum(to + start, copy.from_ + start, copy.bytes - start))
    memcpy(to + start + head.net.csum_offset, &checksum, 2)
