"""One guest's network device as its driver runs it. Virtio 1.2, section 5.1.

Lays the rings and the buffers of its queue pairs into the guest's memory, once. After that load.pyx recycles them.
"""

import os

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport load_acquire_u16, load_u64
from fastvhost.abi.virtio_net cimport (
    F_IN_ORDER, F_RING_PACKED, F_VERSION_1, NET_F_CSUM, NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_F_HOST_TSO4,
    NET_F_MRG_RXBUF, NET_HDR_BYTES, NET_HDR_LEGACY_BYTES, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC, FeatureBit,
    has_feature,
)
from fastvhost.abi.virtio_ring cimport VIRTQ_DESC_BYTES, VIRTQ_MAX_SIZE, virtq_desc, virtq_used
from fastvhost.driver.content cimport (
    CONTENT_NONE, CONTENT_NUMBERS, CONTENT_WHOLE, MIN_FRAME_BYTES, QUEUE_SHIFT, TAG_SHIFT, Stream, stream_start,
)
from fastvhost.driver.packed_driver cimport PACKED_START, packed_format
from fastvhost.driver.queue cimport MAX_PIECES, Completion, DriverQueue, PackedTemplate, Piece
from fastvhost.driver.ram cimport GuestRam
from fastvhost.driver.split_driver cimport split_format

from fastvhost.driver.offload import LEAD_BYTES, LEAST_BYTES, SEGMENT_BYTES, frame_headers, net_header

CONTENTS = {"none": CONTENT_NONE, "numbers": CONTENT_NUMBERS, "whole": CONTENT_WHOLE}
cdef enum:
    CACHE_LINE = 64
    RING_ALIGNMENT = 4096
    MAX_FRAME_BYTES = 65549
    MAX_QUEUE_PAIRS = 128
    LOCAL_EXPERIMENT_TYPE = 0x88b5


cdef uint32_t stride_of(uint32_t n_bytes) noexcept nogil:
    """Whole cache lines, an odd number of them: buffers a power of two apart would crowd into a few sets of a cache."""
    return (n_bytes + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE | CACHE_LINE


cdef uint64_t ring_bytes(uint64_t size) noexcept nogil:
    """Bytes for the three parts of a split ring, each on pages of its own. Section 2.7."""
    return size * VIRTQ_DESC_BYTES + (6 + 2 * size) + (6 + 8 * size) + 3 * RING_ALIGNMENT


cdef int check_asks(uint64_t features, str asks, bint sends, tuple sizes, str content) except -1:
    """Raises ValueError for what a driver with these features must not ask for, or what cannot be verified here."""
    cdef uint64_t whole_frame = 14 + LEAD_BYTES + SEGMENT_BYTES
    net_header(asks, 0)
    if asks == "nothing":
        return 0
    if sends and not has_feature(features, NET_F_CSUM):
        raise ValueError(f"a guest asks for {asks} without CSUM: give it that feature")
    if sends and asks == "segments" and not has_feature(features, NET_F_HOST_TSO4):
        raise ValueError("a guest asks for segments without HOST_TSO4: give it that feature")
    if content == "none":
        return 0
    if min(sizes) < LEAST_BYTES:
        raise ValueError(f"frames of {min(sizes)} bytes: with asks= give {LEAST_BYTES} or more, or content='none'")
    if asks == "segments" and max(sizes) > whole_frame:
        if not has_feature(features, NET_F_GUEST_TSO4) or min(sizes) <= whole_frame:
            raise ValueError("the numbers of frames that are cut, or of two kinds, are not followed: content='none'")
    return 0


@cython.final
cdef class GuestDevice:
    """Memory, rings, buffers and eventfds of one device. settings: GuestSettings.

    features: as negotiated; with INDIRECT_DESC the pieces of a frame stand in a table. tag, peer_tag: tell this
    sender's frames and its peer's from any others, 0..255. peer_queues: queue pairs that the peer sends on, as many as
    here by default.
    """

    def __cinit__(
        self, settings, *, unsigned long long features, unsigned char tag, unsigned char peer_tag, bint sends=True,
        unsigned int peer_queues=0,
    ):
        cdef unsigned int queue_size = settings.queue_size, queues = settings.queues, pieces = settings.pieces
        cdef Pair *side
        sizes = tuple([int(size) for size in settings.sizes])
        if not sizes:
            raise ValueError("no frame sizes: give one at least")
        if min(sizes) < MIN_FRAME_BYTES or max(sizes) > MAX_FRAME_BYTES:
            raise ValueError(f"frame sizes {min(sizes)}..{max(sizes)}: give {MIN_FRAME_BYTES}..{MAX_FRAME_BYTES} bytes")
        cdef uint32_t longest = max(sizes)
        cdef bint table = has_feature(features, <FeatureBit>RING_F_INDIRECT_DESC)
        cdef bytes ethernet
        cdef str asks = settings.asks if sends else "nothing"
        cdef unsigned int buffer_bytes = settings.buffer_bytes
        check_asks(features, settings.asks, sends, sizes, settings.content)
        if not 128 <= buffer_bytes <= MAX_FRAME_BYTES:
            raise ValueError(f"receive buffers of {buffer_bytes} bytes: give 128..{MAX_FRAME_BYTES}")
        cdef uint32_t i
        self.packed = has_feature(features, F_RING_PACKED)
        if not 2 <= queue_size <= VIRTQ_MAX_SIZE or (not self.packed and queue_size & (queue_size - 1)):
            kind = "number" if self.packed else "power of two"
            raise ValueError(f"queue size {queue_size}: give a {kind} from 2 to {VIRTQ_MAX_SIZE}")
        if not 1 <= pieces <= 16 or (pieces > queue_size and not table):
            raise ValueError(f"{pieces} pieces per frame: give 1..16, and no more than the ring has descriptors")
        if has_feature(features, F_IN_ORDER) and not (self.packed or table) and pieces & (pieces - 1):
            raise ValueError(f"{pieces} pieces per frame: a split ring in order has no gaps; give 1, 2, 4, 8 or 16")
        if not 1 <= queues <= MAX_QUEUE_PAIRS or peer_queues > MAX_QUEUE_PAIRS:
            raise ValueError(f"{queues} queue pairs: give 1..{MAX_QUEUE_PAIRS}")
        self.features, self.queues, self.n_streams = features, queues, peer_queues or queues
        self.sides = <Pair *>calloc(queues, sizeof(Pair))
        self.streams = <Stream *>calloc(self.n_streams, sizeof(Stream))
        if self.sides == NULL or self.streams == NULL:
            raise MemoryError("guest driver: no memory for its queue pairs")
        for i in range(self.n_streams):
            stream_start(&self.streams[i], peer_tag, <uint8_t>i)
        for i in range(queues):
            side = &self.sides[i]
            side.sends = sends
            side.content = CONTENTS[settings.content]
            side.streams = self.streams
            side.stream = &self.streams[i % self.n_streams]
            side.n_streams = self.n_streams
            side.next_number = <uint64_t>tag << TAG_SHIFT | <uint64_t>i << QUEUE_SHIFT
            side.sent_lead = LEAD_BYTES if asks != "nothing" else 0
            self._expect(side, settings.asks, longest)
            self._shape(side, longest, min(longest, side.longest_received), pieces, buffer_bytes)
        side = &self.sides[0]
        self.ram = GuestRam(
            queues * (
                2 * ring_bytes(queue_size) + <uint64_t>queue_size * (side.receive_stride + side.transmit_stride)
                + (<uint64_t>queue_size * pieces * VIRTQ_DESC_BYTES if table else 0) + 4 * RING_ALIGNMENT
            ),
            huge=settings.huge,
        )
        self.ram.lent = True
        ethernet = bytes([0x52, 0x54, 0, 0, 0, peer_tag, 0x52, 0x54, 0, 0, 0, tag])
        ethernet += LOCAL_EXPERIMENT_TYPE.to_bytes(2, "big")
        for i in range(queues):
            self._lay_side(&self.sides[i], queue_size, sizes, ethernet, pieces, table, asks)
        self.kick_fds = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2 * queues))
        self.call_fds = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2 * queues))
        if settings.kick:
            for i in range(2 * queues):
                self._queue(i).kick_fd = self.kick_fds[i]

    cdef int _expect(self, Pair *side, str peer_asks, unsigned int longest) except -1:
        """Work out the virtio-net header, the lead and the length that the peer's frames must have."""
        side.received_lead = LEAD_BYTES if peer_asks != "nothing" else 0
        side.longest_received = longest
        if peer_asks == "segments" and not has_feature(self.features, NET_F_GUEST_TSO4):
            side.longest_received = 14 + LEAD_BYTES + SEGMENT_BYTES    # cut on the way
        if has_feature(self.features, NET_F_GUEST_CSUM):
            header = net_header(peer_asks, longest)
            side.received_words = int.from_bytes(header[:8], "little")
            side.received_tail = int.from_bytes(header[8:], "little")
        return 0

    cdef int _shape(
        self, Pair *side, unsigned int longest, unsigned int longest_received, unsigned int pieces,
        unsigned int buffer_bytes
    ) except -1:
        """What a frame and a buffer look like."""
        side.mergeable = has_feature(self.features, NET_F_MRG_RXBUF)
        long_header = side.mergeable or has_feature(self.features, F_VERSION_1)
        side.header_bytes = NET_HDR_BYTES if long_header else NET_HDR_LEGACY_BYTES
        side.header_tail, side.header_tail_mask = (1 << 16, 0xffffffff) if side.mergeable else (0, 0xffff)
        # A buffer must hold any frame of the other guest, which sends the same sizes; mergeable ones hold a part of it.
        side.receive_bytes = max(buffer_bytes, 0 if side.mergeable else longest_received + side.header_bytes)
        side.spans = side.mergeable and longest_received + side.header_bytes > side.receive_bytes
        side.receive_stride = stride_of(side.receive_bytes)
        side.n_parts = 1 if pieces == 1 else pieces - 1
        side.frame_offset = side.header_bytes + (PIECE_GAP if pieces > 1 else 0)
        side.transmit_stride = stride_of(side.header_bytes + longest + PIECE_GAP * side.n_parts)
        return 0

    cdef int _lay_side(
        self, Pair *side, unsigned int queue_size, tuple sizes, bytes ethernet, unsigned int pieces, bint table,
        str asks
    ) except -1:
        """The rings and buffers of one queue pair; all receive buffers become available."""
        cdef bint in_order = has_feature(self.features, F_IN_ORDER)
        cdef unsigned int chain_length = 1 if table else pieces
        if self.packed:
            packed_format(&side.format, in_order)
        else:
            split_format(&side.format, in_order)
        side.receiveq.kick_fd = side.transmitq.kick_fd = -1    # until the rings are laid out, nobody is notified
        self._lay_ring(side, &side.receiveq, queue_size, 1, side.receive_bytes)
        self._lay_ring(side, &side.transmitq, queue_size, chain_length, 0)
        self._lay_receive(side)
        self._lay_transmit(side, sizes, ethernet, pieces, table, asks)
        return 0

    cdef int _lay_ring(
        self, Pair *side, DriverQueue *queue, unsigned int size, unsigned int chain_length, unsigned int buffer_bytes
    ) except -1:
        queue.size = <uint16_t>size
        queue.chain_length = <uint16_t>chain_length
        queue.shift = (chain_length - 1).bit_length()
        queue.n_slots = <uint16_t>(size // chain_length if self.packed else size >> queue.shift)
        queue.buffer_bytes = buffer_bytes
        queue.event_idx = has_feature(self.features, RING_F_EVENT_IDX)
        # Of either format, the larger one's bytes: sections 2.7 and 2.8.
        queue.descriptor_area = self.ram.allot(size * VIRTQ_DESC_BYTES, RING_ALIGNMENT)
        queue.driver_area = self.ram.allot(6 + 2 * size, RING_ALIGNMENT)
        queue.device_area = self.ram.allot(6 + 8 * size, RING_ALIGNMENT)
        if self.packed:
            queue.templates = <PackedTemplate *>calloc(<uint32_t>queue.n_slots * chain_length, sizeof(PackedTemplate))
        if has_feature(self.features, F_IN_ORDER):
            queue.used_bytes = <uint32_t *>calloc(queue.n_slots, sizeof(uint32_t))
        if (self.packed and queue.templates == NULL) or (
            has_feature(self.features, F_IN_ORDER) and queue.used_bytes == NULL
        ):
            raise MemoryError("guest driver: no memory for its notes about slots")
        side.format.prepare(queue)
        return 0

    cdef int _lay_receive(self, Pair *side) except -1:
        """One buffer, one writable descriptor each; all of them become available."""
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

    cdef int _lay_transmit(
        self, Pair *side, tuple sizes, bytes ethernet, unsigned int pieces, bint table, str asks
    ) except -1:
        """The frames, header and all; the driver holds them until the load starts."""
        cdef Completion idle
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
            start_of_frame = frame_headers(ethernet, side.frame_bytes[i]) if side.sent_lead else ethernet
            memcpy(data + side.frame_offset, <const char *>start_of_frame, len(start_of_frame))
            header = net_header(asks, side.frame_bytes[i])
            memcpy(data, <const char *>header, len(header))
            parts[0].guest_addr = self.ram.guest_of(data)
            parts[0].bytes = side.header_bytes
            if pieces == 1:
                parts[0].bytes += side.frame_bytes[i]
            else:
                for part in range(side.n_parts):
                    start = side.sent_lead + part_position(side.frame_bytes[i] - side.sent_lead, side.n_parts, part)
                    end = side.sent_lead + part_position(side.frame_bytes[i] - side.sent_lead, side.n_parts, part + 1)
                    if part == 0:
                        start = 0
                    parts[part + 1].guest_addr = self.ram.guest_of(data + side.frame_offset + start + PIECE_GAP * part)
                    parts[part + 1].bytes = end - start
            side.format.lay_chain(
                &side.transmitq, i, parts, pieces, False,
                NULL if tables == NULL else tables + i * pieces,
                0 if tables == NULL else self.ram.guest_of(tables + i * pieces),
            )
            idle.slot, idle.bytes = i, 0
            push_idle(side, idle)
        return 0

    cdef DriverQueue *_queue(self, unsigned int index) except NULL:
        """By vhost-user's numbering: receiveq 0, transmitq 0, receiveq 1, ..."""
        if index >= 2 * self.queues:
            raise ValueError(f"queue {index}: this device has 0..{2 * self.queues - 1}")
        return &self.sides[index // 2].transmitq if index & 1 else &self.sides[index // 2].receiveq

    def ring_addresses(self, unsigned int index) -> tuple[int, int, int]:
        """Descriptor, driver and device area of a queue, as user addresses."""
        cdef DriverQueue *queue = self._queue(index)
        return <uint64_t>queue.descriptor_area, <uint64_t>queue.driver_area, <uint64_t>queue.device_area

    @property
    def base(self) -> int:
        """What SET_VRING_BASE says of a new ring."""
        return <uint32_t>PACKED_START if self.packed else 0

    def base_left(self, unsigned int index) -> int:
        """What SET_VRING_BASE says of a ring whose back-end ended without telling its position.

        As with QEMU: of a split ring, the used index in guest memory; of a packed ring, which has none, its first base.
        Raises ValueError where the device is closed, or has no such queue.
        """
        if self.closed:
            raise ValueError("guest device: it is closed; ask before that")
        cdef DriverQueue *queue = self._queue(index)
        return self.base if self.packed else load_acquire_u16(&(<virtq_used *>queue.device_area).idx)

    @property
    def sent(self) -> tuple[int, int]:
        """Frames and Ethernet bytes given to the device."""
        cdef uint64_t frames = 0, n_bytes = 0
        cdef unsigned int i
        for i in range(self.queues):
            frames += load_u64(&self.sides[i].sent_frames)
            n_bytes += load_u64(&self.sides[i].sent_bytes)
        return frames, n_bytes

    @property
    def received(self) -> tuple[int, int, int, int, int, int]:
        """Frames, bytes, corrupt, reordered, duplicated, missing."""
        cdef uint64_t frames = 0, n_bytes = 0, corrupt = 0, reordered = 0, duplicated = 0, missing = 0
        cdef unsigned int i
        for i in range(self.queues):
            frames += load_u64(&self.sides[i].received_frames)
            n_bytes += load_u64(&self.sides[i].received_bytes)
        for i in range(self.n_streams):
            corrupt += load_u64(&self.streams[i].corrupt)
            reordered += load_u64(&self.streams[i].reordered)
            duplicated += load_u64(&self.streams[i].duplicated)
            missing += load_u64(&self.streams[i].missing)
        return frames, n_bytes, corrupt, reordered, duplicated, missing

    @property
    def by_queue(self) -> list[tuple[int, int]]:
        """Frames sent and received on each queue pair."""
        return [
            (load_u64(&self.sides[i].sent_frames), load_u64(&self.sides[i].received_frames))
            for i in range(self.queues)
        ]

    @property
    def kicks(self) -> int:
        """Notifications sent to the device."""
        return sum([load_u64(&self._queue(i).kicks) for i in range(2 * self.queues)])

    @property
    def unreturned(self) -> int:
        """Sent frames whose buffers the device still holds."""
        return sum([self.sides[i].transmitq.n_given for i in range(self.queues)])

    @property
    def broken(self) -> bool:
        """Whether the device returned a buffer that it did not have. That queue is not used since."""
        return any([self._queue(i).broken for i in range(2 * self.queues)])

    def close(self):
        """Give the memory and the eventfds back. Idempotent. ValueError while a load runs on it."""
        if self.loaded or self.wired:
            raise ValueError("guest device: a load runs on it; stop that first")
        self.closed = True
        for fd in self.kick_fds + self.call_fds:
            os.close(fd)
        self.kick_fds = self.call_fds = ()
        self.ram.let_go()

    cdef int begin(self, bint *mark) except -1:
        """Claim its rings for one user, and set the mark: &loaded or &wired. Raises ValueError where it is set."""
        if self.closed:
            raise ValueError("guest device: it is closed; make another one")
        if mark[0]:
            raise ValueError("guest device: somebody works on it already; stop that first")
        mark[0] = True
        return 0

    def __dealloc__(self):
        cdef unsigned int i
        if self.sides != NULL:
            for i in range(self.queues):
                free(self.sides[i].frame_bytes)
                free(self.sides[i].idle)
                free(self.sides[i].receiveq.templates)
                free(self.sides[i].transmitq.templates)
                free(self.sides[i].receiveq.used_bytes)
                free(self.sides[i].transmitq.used_bytes)
        free(self.sides)
        free(self.streams)
