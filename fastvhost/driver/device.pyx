"""One guest's network device as its driver runs it. Virtio 1.2, section 5.1.

Lays the rings and the buffers of one queue pair into the guest's memory, once. After that load.pyx recycles them.
"""

import os

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport load_u64
from fastvhost.abi.virtio_net cimport (
    F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, NET_HDR_BYTES, NET_HDR_LEGACY_BYTES, RING_F_EVENT_IDX,
    RING_F_INDIRECT_DESC, FeatureBit, has_feature,
)
from fastvhost.abi.virtio_ring cimport VIRTQ_DESC_BYTES, VIRTQ_MAX_SIZE, virtq_desc
from fastvhost.driver.content cimport (
    CONTENT_NONE, CONTENT_NUMBERS, CONTENT_WHOLE, MIN_FRAME_BYTES, TAG_SHIFT, stream_start,
)
from fastvhost.driver.packed_driver cimport PACKED_START, packed_format
from fastvhost.driver.queue cimport MAX_PIECES, Completion, DriverQueue, PackedTemplate, Piece
from fastvhost.driver.ram cimport GuestRam
from fastvhost.driver.split_driver cimport split_format

CONTENTS = {"none": CONTENT_NONE, "numbers": CONTENT_NUMBERS, "whole": CONTENT_WHOLE}
cdef enum:
    CACHE_LINE = 64
    RING_ALIGNMENT = 4096
    MERGEABLE_BUFFER_BYTES = 2048
    MAX_FRAME_BYTES = 65549
    LOCAL_EXPERIMENT_TYPE = 0x88b5


cdef uint32_t stride_of(uint32_t n_bytes) noexcept nogil:
    """Whole cache lines, an odd number of them: buffers a power of two apart would crowd into a few sets of a cache."""
    return (n_bytes + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE | CACHE_LINE


cdef uint64_t ring_bytes(uint64_t size) noexcept nogil:
    """Of the three parts of a split ring, each on pages of its own. Section 2.7."""
    return size * VIRTQ_DESC_BYTES + (6 + 2 * size) + (6 + 8 * size) + 3 * RING_ALIGNMENT


@cython.final
cdef class GuestDevice:
    """Memory, rings, buffers and eventfds of one device with one queue pair.

    features: as negotiated. sizes: Ethernet bytes of the frames sent, in turn. pieces: descriptors per sent frame.
    tag, peer_tag: tell this sender's frames and its peer's from any others, 0..255.
    """

    def __cinit__(
        self, *, unsigned long long features, unsigned int queue_size, object sizes, unsigned char tag,
        unsigned char peer_tag, bint sends=True,
        unsigned int pieces=1, bint indirect=False, str content="numbers", bint kick=True, bint huge=True,
    ):
        cdef Side *side = &self.side
        cdef uint32_t longest = max(sizes)
        cdef bint table = indirect and has_feature(features, <FeatureBit>RING_F_INDIRECT_DESC)
        self.packed = has_feature(features, F_RING_PACKED)
        if not 2 <= queue_size <= VIRTQ_MAX_SIZE or (not self.packed and queue_size & (queue_size - 1)):
            kind = "number" if self.packed else "power of two"
            raise ValueError(f"queue size {queue_size}: give a {kind} from 2 to {VIRTQ_MAX_SIZE}")
        if min(sizes) < MIN_FRAME_BYTES or longest > MAX_FRAME_BYTES:
            raise ValueError(f"frame sizes {min(sizes)}..{longest}: give {MIN_FRAME_BYTES}..{MAX_FRAME_BYTES} bytes")
        if not 1 <= pieces <= 16 or (pieces > queue_size and not table):
            raise ValueError(f"{pieces} pieces per frame: give 1..16, and no more than the ring has descriptors")
        self.features = features
        side.sends = sends
        side.content = CONTENTS[content]
        side.mergeable = has_feature(features, NET_F_MRG_RXBUF)
        long_header = side.mergeable or has_feature(features, F_VERSION_1)
        side.header_bytes = NET_HDR_BYTES if long_header else NET_HDR_LEGACY_BYTES
        side.header_tail, side.header_tail_mask = (1 << 16, 0xffffffff) if side.mergeable else (0, 0xffff)
        # A buffer must hold any frame of the other guest's, which sends the same sizes; mergeable ones share it out.
        side.receive_bytes = max(MERGEABLE_BUFFER_BYTES, 0 if side.mergeable else longest + side.header_bytes)
        side.spans = side.mergeable and longest + side.header_bytes > side.receive_bytes
        side.receive_stride = stride_of(side.receive_bytes)
        side.n_parts = 1 if pieces == 1 else pieces - 1
        side.frame_offset = side.header_bytes + (PIECE_GAP if pieces > 1 else 0)
        side.transmit_stride = stride_of(side.header_bytes + longest + PIECE_GAP * side.n_parts)
        if self.packed:
            packed_format(&side.format)
        else:
            split_format(&side.format)
        side.receiveq.event_idx = side.transmitq.event_idx = has_feature(features, RING_F_EVENT_IDX)
        self.ram = GuestRam(
            2 * ring_bytes(queue_size) + <uint64_t>queue_size * (side.receive_stride + side.transmit_stride)
            + (<uint64_t>queue_size * pieces * VIRTQ_DESC_BYTES if table else 0) + 4 * RING_ALIGNMENT,
            huge=huge,
        )
        side.receiveq.kick_fd = side.transmitq.kick_fd = -1    # nobody listens yet
        self._lay_ring(&side.receiveq, queue_size, 1)
        ring_pieces = 1 if table else pieces
        self._lay_ring(&side.transmitq, queue_size, ring_pieces)
        self._lay_receive()
        ethernet = bytes([0x52, 0x54, 0, 0, 0, peer_tag, 0x52, 0x54, 0, 0, 0, tag])
        ethernet += LOCAL_EXPERIMENT_TYPE.to_bytes(2, "big")
        self._lay_transmit(tuple(sizes), ethernet, pieces, table)
        side.next_number = <uint64_t>tag << TAG_SHIFT
        stream_start(&side.received, peer_tag)
        self.kick_fds = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self.call_fds = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        if kick:
            side.receiveq.kick_fd, side.transmitq.kick_fd = self.kick_fds

    cdef int _lay_ring(self, DriverQueue *queue, unsigned int size, unsigned int chain_length) except -1:
        queue.size = <uint16_t>size
        queue.chain_length = <uint16_t>chain_length
        queue.shift = (chain_length - 1).bit_length()
        queue.n_slots = <uint16_t>(size // chain_length if self.packed else size >> queue.shift)
        # Of either format, the larger one's bytes: sections 2.7 and 2.8.
        queue.descriptor_area = self.ram.allot(size * VIRTQ_DESC_BYTES, RING_ALIGNMENT)
        queue.driver_area = self.ram.allot(6 + 2 * size, RING_ALIGNMENT)
        queue.device_area = self.ram.allot(6 + 8 * size, RING_ALIGNMENT)
        if self.packed:
            queue.templates = <PackedTemplate *>calloc(<uint32_t>queue.n_slots * chain_length, sizeof(PackedTemplate))
            if queue.templates == NULL:
                raise MemoryError("guest driver: no memory for its templates of descriptors")
        self.side.format.prepare(queue)
        return 0

    cdef int _lay_receive(self) except -1:
        """One buffer, one writable descriptor each; all of them become available."""
        cdef Side *side = &self.side
        cdef Piece piece
        cdef Completion slot
        cdef uint32_t i
        side.receive_data = self.ram.allot(<uint64_t>side.receiveq.n_slots * side.receive_stride, CACHE_LINE)
        for i in range(side.receiveq.n_slots):
            piece.guest_addr = self.ram.guest_of(side.receive_data + <uint64_t>i * side.receive_stride)
            piece.bytes = side.receive_bytes
            side.format.lay_chain(&side.receiveq, i, &piece, 1, True, NULL, 0)
            slot.slot, slot.bytes = i, 0
            side.format.give(&side.receiveq, &slot, 1)
        return 0

    cdef int _lay_transmit(self, tuple sizes, bytes ethernet, unsigned int pieces, bint table) except -1:
        """The frames, header and all; the driver holds them until the load starts."""
        cdef Side *side = &self.side
        cdef Piece parts[MAX_PIECES]
        cdef virtq_desc *tables = NULL
        cdef uint8_t *data
        cdef uint32_t n_slots = side.transmitq.n_slots
        cdef uint32_t i, part, start, end
        side.frame_bytes = <uint32_t *>calloc(n_slots, sizeof(uint32_t))
        side.idle = <Completion *>calloc(n_slots, sizeof(Completion))
        if side.frame_bytes == NULL or side.idle == NULL:
            raise MemoryError("guest driver: no memory for its lists of slots")
        if table:
            tables = <virtq_desc *>self.ram.allot(<uint64_t>n_slots * pieces * VIRTQ_DESC_BYTES, CACHE_LINE)
        side.transmit_data = self.ram.allot(<uint64_t>n_slots * side.transmit_stride, CACHE_LINE)
        for i in range(n_slots):
            data = side.transmit_data + <uint64_t>i * side.transmit_stride
            side.frame_bytes[i] = sizes[i % len(sizes)]
            memcpy(data + side.frame_offset, <const char *>ethernet, len(ethernet))
            parts[0].guest_addr = self.ram.guest_of(data)
            parts[0].bytes = side.header_bytes
            if pieces == 1:
                parts[0].bytes += side.frame_bytes[i]
            else:
                for part in range(side.n_parts):
                    start = part_position(side.frame_bytes[i], side.n_parts, part)
                    end = part_position(side.frame_bytes[i], side.n_parts, part + 1)
                    parts[part + 1].guest_addr = self.ram.guest_of(data + side.frame_offset + start + PIECE_GAP * part)
                    parts[part + 1].bytes = end - start
            side.format.lay_chain(
                &side.transmitq, i, parts, pieces, False,
                NULL if tables == NULL else tables + i * pieces,
                0 if tables == NULL else self.ram.guest_of(tables + i * pieces),
            )
            # The stack's top is taken first: slot 0 leaves first.
            side.idle[n_slots - 1 - i].slot = i
        side.n_idle = n_slots
        return 0

    def ring_addresses(self, int index) -> tuple[int, int, int]:
        """Descriptor, driver and device area of a queue, as user addresses."""
        cdef DriverQueue *queue = &self.side.transmitq if index & 1 else &self.side.receiveq
        return <uint64_t>queue.descriptor_area, <uint64_t>queue.driver_area, <uint64_t>queue.device_area

    @property
    def base(self) -> int:
        """What SET_VRING_BASE says of a new ring."""
        return <uint32_t>PACKED_START if self.packed else 0

    @property
    def sent(self) -> tuple[int, int]:
        """Frames and Ethernet bytes given to the device."""
        return load_u64(&self.side.sent_frames), load_u64(&self.side.sent_bytes)

    @property
    def received(self) -> tuple[int, int, int, int, int, int]:
        """Frames, bytes, corrupt, reordered, duplicated, missing."""
        cdef Stream *stream = &self.side.received
        return (
            load_u64(&stream.frames), load_u64(&stream.bytes), load_u64(&stream.corrupt),
            load_u64(&stream.reordered), load_u64(&stream.duplicated), load_u64(&stream.missing),
        )

    @property
    def kicks(self) -> int:
        """Notifications sent to the device."""
        return load_u64(&self.side.receiveq.kicks) + load_u64(&self.side.transmitq.kicks)

    @property
    def unreturned(self) -> int:
        """Sent frames whose buffers the device still holds."""
        return self.side.transmitq.n_given

    @property
    def broken(self) -> bool:
        """The device returned something it did not hold; that queue rests since."""
        return bool(self.side.receiveq.broken or self.side.transmitq.broken)

    def close(self):
        """Give the memory and the eventfds back. Idempotent. Only when no load runs on it any more."""
        for fd in self.kick_fds + self.call_fds:
            os.close(fd)
        self.kick_fds = self.call_fds = ()
        self.ram.close()

    def __dealloc__(self):
        free(self.side.frame_bytes)
        free(self.side.idle)
        free(self.side.receiveq.templates)
        free(self.side.transmitq.templates)
