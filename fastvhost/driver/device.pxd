"""One guest's network device as its driver runs it: the rings, the buffers, and the counts of its traffic."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.driver.content cimport Content, Stream
from fastvhost.driver.queue cimport Completion, DriverQueue, QueueFormat
from fastvhost.driver.ram cimport GuestRam


cdef enum:
    PIECE_GAP = 32             # bytes between the pieces of a chain, so that no two are adjacent
    LEAST_FIRST_PIECE = 30     # a frame's number and check word lie in its first piece: BODY_OFFSET


# One queue pair under load.
cdef struct Pair:
    # Set before the load runs.
    QueueFormat format
    DriverQueue receiveq
    DriverQueue transmitq
    uint8_t *receive_data
    uint8_t *transmit_data
    uint32_t *frame_bytes      # of each transmit slot
    uint32_t receive_stride
    uint32_t receive_bytes     # of each receive buffer
    uint32_t transmit_stride
    uint32_t header_bytes
    uint32_t header_tail       # its bytes 8..11, under the mask: num_buffers matters where buffers are mergeable
    uint32_t header_tail_mask
    uint32_t frame_offset      # in a transmit slot
    uint32_t sent_lead         # bytes of IP and TCP headers in front of the content of a sent frame: offload.py
    uint32_t received_lead     # the same of the peer's frames
    uint32_t longest_received  # bytes
    uint64_t received_words    # the first eight bytes that their virtio-net header must have,
    uint32_t received_tail     # and the bytes after these, but for num_buffers
    uint32_t n_parts           # pieces a sent frame lies in
    bint mergeable
    bint spans                 # frames may be longer than a receive buffer
    bint sends
    Content content
    Stream *streams            # of the peer's queues: shared by all queue pairs of this device
    uint32_t n_streams
    # The load's thread.
    Completion *idle           # transmit slots that the driver holds, first in, first out: n_idle from oldest_idle on
    uint32_t oldest_idle
    uint32_t n_idle
    uint64_t next_number
    uint64_t sent_frames
    uint64_t sent_bytes
    Stream *stream             # whose frames came last
    uint64_t received_frames
    uint64_t received_bytes


cdef inline uint32_t part_position(uint32_t frame_bytes, uint32_t n_parts, uint32_t part) noexcept nogil:
    """Where part number `part` of a frame starts, counted from the end of its lead; part n_parts starts at its end."""
    cdef uint32_t first = frame_bytes // n_parts
    if part == 0:
        return 0
    if first < LEAST_FIRST_PIECE:
        first = LEAST_FIRST_PIECE
    if part >= n_parts:
        return frame_bytes
    return first + (frame_bytes - first) // (n_parts - 1) * (part - 1)


cdef inline void push_idle(Pair *side, Completion slot) noexcept nogil:
    cdef uint32_t at = side.oldest_idle + side.n_idle
    side.idle[at if at < side.transmitq.n_slots else at - side.transmitq.n_slots] = slot
    side.n_idle += 1


cdef inline Completion pop_idle(Pair *side) noexcept nogil:
    cdef Completion slot = side.idle[side.oldest_idle]
    side.oldest_idle = side.oldest_idle + 1 if side.oldest_idle + 1 < side.transmitq.n_slots else 0
    side.n_idle -= 1
    return slot


cdef class GuestDevice:
    cdef readonly GuestRam ram
    cdef readonly unsigned long long features
    cdef readonly tuple kick_fds
    cdef readonly tuple call_fds
    cdef readonly bint packed
    cdef readonly unsigned int queues
    cdef Pair *sides           # one per queue pair
    cdef Stream *streams       # one per queue pair of the peer
    cdef unsigned int n_streams
    cdef bint loaded           # a Load works on it now
    cdef bint wired            # a CopyLimit works on it now
    cdef bint closed

    cdef int begin(self, bint *mark) except -1
    cdef int _shape(
        self, Pair *side, unsigned int longest, unsigned int longest_received, unsigned int pieces,
        unsigned int buffer_bytes
    ) except -1
    cdef int _expect(self, Pair *side, str peer_asks, unsigned int longest) except -1
    cdef int _lay_side(
        self, Pair *side, unsigned int queue_size, tuple sizes, bytes ethernet, unsigned int pieces, bint table,
        str asks
    ) except -1
    cdef int _lay_ring(
        self, Pair *side, DriverQueue *queue, unsigned int size, unsigned int chain_length, unsigned int buffer_bytes
    ) except -1
    cdef int _lay_receive(self, Pair *side) except -1
    cdef int _lay_transmit(
        self, Pair *side, tuple sizes, bytes ethernet, unsigned int pieces, bint table, str asks
    ) except -1
    cdef DriverQueue *_queue(self, unsigned int index) except NULL
