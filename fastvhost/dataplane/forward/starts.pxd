"""The first bytes of frames, read once, and frames that begin with them."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.frame cimport BURST, Delivery, Frame, FrameBurst, Segment, Start


# Room for what splice() makes.
cdef struct Splicer:
    Frame frames[BURST]
    Segment *segments        # MAX_SPLICED of them
    Delivery delivery


cdef enum:
    # Those of a burst, and one for the start of each frame.
    MAX_SPLICED = 65535 + 2 * BURST


cdef bint read_starts(Start *starts, const FrameBurst *burst, uint32_t first, uint32_t n) noexcept nogil
cdef const Delivery *splice(Splicer *splicer, const Delivery *delivery) noexcept nogil
