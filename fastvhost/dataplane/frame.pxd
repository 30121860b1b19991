"""What travels through the forwarder: chains of guest buffers, and the frames in them, by reference.

A *chain* is a descriptor chain resolved to host pointers. A *frame* is a chain of the transmitq less its virtio-net
header: the same struct, moved forward. Nothing is copied until an egress copies it into its own chains. Where that
header asked for something, a copy of it is the frame's *head*: what is decided on, and what the receiver gets.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from fastvhost.abi.virtio_net cimport NetHeader


# Sixty-four frames a burst: bench/results shows what other sizes cost.
cdef enum:
    BURST = 64
    # A frame of MAX_FRAME_BYTES and its header in pieces of one byte: no legal frame needs more.
    MAX_SEGMENTS = 65535
    # Two addresses of six bytes and an EtherType, or instead of that a VLAN tag's four.
    UNTAGGED_BYTES = 14
    START_BYTES = 16
    TAGGED_BYTES = 18        # both
    # What one visit of a lane may move at the most, but for its first frame: pieces, of those received and of those
    # delivered into, and bytes of payload. The bytes are those of a burst of frames of 4096, or of four of 64 KiB: they
    # share the cost of a visit, which took a seventh of the rate from one at a time. That many take 10 to 50 us, so
    # their time is charged in full (roster.pxd, MOST_US).
    VISIT_PIECES = 4 * BURST
    VISIT_BYTES = 256 * 1024


cdef struct Segment:
    uint8_t *data
    uint32_t bytes


cdef struct Chain:
    uint8_t *data            # the only segment's start, where n_segments == 1
    uint32_t bytes           # of all segments together; with the ticket, eight bytes that a packed ring stores at once
    uint32_t ticket          # what the ring wants back to complete the chain; nobody else looks into it
    uint32_t first_segment   # index into the burst's segments, where n_segments > 1
    uint16_t n_segments
    uint16_t head            # index into the burst's heads; 0: it needs nothing


ctypedef Chain Frame


# What a receiver must be able to do to get a frame as it was sent. Virtio 1.2, section 5.1.6.2.
cdef enum Need:
    NEED_CSUM = 1            # fill in a checksum (NEEDS_CSUM)
    NEED_TSO4 = 2            # take a frame longer than the sender's MTU: TCP over IPv4,
    NEED_TSO6 = 4            # over IPv6,
    NEED_ECN = 8             # with CWR set in the first segment alone,
    NEED_USO = 16            # or UDP datagrams over either;
    NEED_TUNNEL = 32         # the same inside a datagram: nobody can. See offload/tunnel.pxd


# Read once from the sender's memory, and checked.
cdef struct Head:
    NetHeader net
    uint32_t needs           # of Need


# A chain that its ring may hand back to the driver: its ticket, and how much was written to it. Eight bytes, laid out
# as the used ring of a split virtqueue wants them (virtio 1.2, section 2.7.8).
cdef struct Done:
    uint32_t ticket
    uint32_t bytes


cdef struct FrameBurst:
    uint32_t n_frames
    uint32_t n_segments
    uint32_t n_heads
    uint32_t needs                   # of any head
    uint32_t n_headed                # so many frames follow their virtio-net header in one piece of memory
    Frame frames[BURST]
    Done done[BURST]                 # by frame
    Head heads[BURST + 1]            # the first one is that of a frame that needs nothing
    Segment *segments                # MAX_SEGMENTS of them, touched only by frames in pieces


# The first bytes of a frame, read once: what a switch decides on, and what its receiver gets in front of the rest.
# Destination, source, and EtherType or VLAN tag (IEEE 802.3, 802.1Q).
cdef struct Start:
    uint8_t bytes[TAGGED_BYTES]
    uint32_t n               # of them: START_BYTES where there is a tag, else UNTAGGED_BYTES; TAGGED_BYTES of a new one
    uint32_t skip            # bytes of the frame, as it is in memory, that they stand for: n, unless uneven


# What one port gets of a burst: some of its frames, in their order, and what they refer to.
cdef struct Delivery:
    uint32_t n
    uint32_t needs                   # of any head among them, or more
    const Frame *frames
    const Segment *segments
    const Head *heads
    const Start *starts              # by frame; NULL: a frame begins as it does in its sender's memory
    uint32_t alike                   # whether all begin with starts[0], which is the only one
    bint uneven                      # some start is longer or shorter than what it stands for: to be spliced


cdef inline Delivery delivery_of(const FrameBurst *burst, uint32_t first, uint32_t n) noexcept nogil:
    """The frames first to first + n of a burst, where they stand."""
    return Delivery(n, burst.needs, &burst.frames[first], burst.segments, &burst.heads[0], NULL, True, False)


cdef inline Delivery part_of(const Delivery *delivery, uint32_t first, uint32_t n) noexcept nogil:
    cdef Delivery part = delivery[0]
    part.n = n
    part.frames += first
    if not part.alike:
        part.starts += first
    return part


cdef inline const Start *start_of(const Delivery *delivery, uint32_t i) noexcept nogil:
    """What its i-th frame begins with. Only where it has starts."""
    return &delivery.starts[0 if delivery.alike else i]


cdef inline void put_start(uint8_t *to, const Start *start) noexcept nogil:
    """Over the first bytes of a copy of its frame."""
    memcpy(to, start.bytes, 8)
    if start.n > START_BYTES:
        memcpy(to + 8, start.bytes + 8, 8)
    memcpy(to + start.n - 8, start.bytes + start.n - 8, 8)


cdef inline void begin_heads(FrameBurst *burst) noexcept nogil:
    """A burst as it is made."""
    burst.heads[0] = Head(NetHeader(0, 0, 0, 0, 0, 0, 1), 0)


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
