"""A place in the bytes of a chain, and copying from one chain to another. Each may be cut anywhere."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from fastvhost.dataplane.frame cimport Chain, Segment


# A place in a chain's bytes.
cdef struct Cursor:
    const Segment *segment
    uint32_t offset


cdef inline Cursor cursor_of(const Chain *chain, const Segment *segments, Segment *alone) noexcept nogil:
    """The start of a chain. A chain of one segment has none in the pool; it gets the one lent by the caller."""
    if chain.n_segments == 1:
        alone[0] = Segment(chain.data, chain.bytes)
        return Cursor(alone, 0)
    return Cursor(&segments[chain.first_segment], 0)


cdef inline uint32_t copy_at(Cursor *to, Cursor *source, uint32_t bytes) noexcept nogil:
    """Copy between two places in chains; both move on. The caller knows that both hold enough."""
    cdef uint32_t left = bytes, piece
    while left:
        while to.offset == to.segment.bytes:
            to[0] = Cursor(to.segment + 1, 0)
        while source.offset == source.segment.bytes:
            source[0] = Cursor(source.segment + 1, 0)
        piece = min(left, min(to.segment.bytes - to.offset, source.segment.bytes - source.offset))
        memcpy(to.segment.data + to.offset, source.segment.data + source.offset, piece)
        to.offset += piece
        source.offset += piece
        left -= piece
    return bytes
