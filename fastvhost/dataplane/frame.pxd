"""What travels through the forwarder: chains of guest buffers, and the frames in them, by reference.

A *chain* is a descriptor chain resolved to host pointers. A *frame* is a chain of the transmitq less its virtio-net
header: the same struct, moved forward. Nothing is copied until an egress copies it into its own chains.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy


# Sixty-four frames a burst: bench/results shows what other sizes cost.
cdef enum:
    BURST = 64
    # A frame of MAX_FRAME_BYTES and its header in pieces of one byte: no legal frame needs more.
    MAX_SEGMENTS = 65535
    # What one visit of a lane may move at the most, but for its first frame: pieces, of those received and of those
    # delivered into, and bytes of payload. So no visit takes much longer than a burst of usual frames does. The bytes
    # are those of a burst of frames of 1536: 64 KiB would cut bursts of 1518 in two, for 17 instructions a frame.
    VISIT_PIECES = 4 * BURST
    VISIT_BYTES = 96 * 1024


cdef struct Segment:
    uint8_t *data
    uint32_t bytes


cdef struct Chain:
    uint8_t *data            # the only segment's start, where n_segments == 1
    uint32_t bytes           # of all segments together; with the ticket, eight bytes that a packed ring stores at once
    uint32_t ticket          # what the ring wants back to complete the chain; nobody else looks into it
    uint32_t first_segment   # index into the burst's segments, where n_segments > 1
    uint16_t n_segments


ctypedef Chain Frame


# A chain that its ring may hand back to the driver: its ticket, and how much was written to it. Eight bytes, laid out
# as the used ring of a split virtqueue wants them (virtio 1.2, section 2.7.8).
cdef struct Done:
    uint32_t ticket
    uint32_t bytes


cdef struct FrameBurst:
    uint32_t n_frames
    uint32_t n_segments
    Frame frames[BURST]
    Done done[BURST]                 # by frame
    Segment *segments                # MAX_SEGMENTS of them, touched only by frames in pieces


cdef inline void copy_frame(uint8_t *to, const Frame *frame, const Segment *segments) noexcept nogil:
    """All of a frame, in however many pieces, to one place."""
    cdef uint32_t i
    cdef const Segment *piece
    if frame.n_segments == 1:
        memcpy(to, frame.data, frame.bytes)
        return
    for i in range(frame.n_segments):
        piece = &segments[frame.first_segment + i]
        memcpy(to, piece.data, piece.bytes)
        to += piece.bytes
