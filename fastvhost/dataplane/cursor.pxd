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


cdef inline uint32_t in_one_piece(Cursor *to, Cursor *source, uint32_t bytes) noexcept nogil:
    """How many of the next bytes lie in one piece at both places. The caller knows that both hold enough."""
    while to.offset == to.segment.bytes:
        to[0] = Cursor(to.segment + 1, 0)
    while source.offset == source.segment.bytes:
        source[0] = Cursor(source.segment + 1, 0)
    return min(bytes, min(to.segment.bytes - to.offset, source.segment.bytes - source.offset))


cdef inline void step(Cursor *to, Cursor *source, uint32_t bytes) noexcept nogil:
    """Move both on by what lies in one piece at both."""
    to.offset += bytes
    source.offset += bytes


cdef inline uint32_t copy_at(Cursor *to, Cursor *source, uint32_t bytes) noexcept nogil:
    """Copy between two places in chains; both move on."""
    cdef uint32_t left = bytes, piece
    while left:
        piece = in_one_piece(to, source, left)
        memcpy(to.segment.data + to.offset, source.segment.data + source.offset, piece)
        step(to, source, piece)
        left -= piece
    return bytes
