"""The load: guests that send and receive as fast as their device lets them, in one thread that never sleeps.

`run()` is only: until told to stop, step. A step moves one burst each way at every guest.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastvhost.abi.shared_memory cimport load_acquire_u32, prefetch_read, store_release_u32
from fastvhost.abi.virtio_net cimport NET_HDR_NUM_BUFFERS_OFFSET
from fastvhost.driver.content cimport (
    BODY_OFFSET, CONTENT_NONE, CONTENT_WHOLE, Content, Stream, body_is_right, fill_body, has_number, number_frame,
    number_is_not_next,
)
from fastvhost.driver.device cimport PIECE_GAP, GuestDevice, Side, part_position
from fastvhost.driver.queue cimport DRIVER_BURST, Completion

cdef enum:
    MAX_GUESTS = 16

cdef enum Phase:
    FLOOD          # send whatever comes back, again
    DRAIN          # send no more, keep receiving
    STOP


@cython.final
cdef class Load:
    """Runs the traffic of some guests. The devices stay the caller's."""

    cdef tuple devices
    cdef Side *sides[MAX_GUESTS]
    cdef uint32_t n_sides
    cdef uint32_t phase

    def __cinit__(self, *devices: GuestDevice):
        cdef GuestDevice device
        if not 1 <= len(devices) <= MAX_GUESTS:
            raise ValueError(f"{len(devices)} guests: give 1..{MAX_GUESTS}")
        self.devices = devices
        for device in devices:
            if device is None:
                raise TypeError("a load of no guest: give GuestDevice objects")
            self.sides[self.n_sides] = &device.side
            self.n_sides += 1
        self.phase = FLOOD

    def run(self):
        """Until stop(). Call it in a thread of its own; the GIL is free meanwhile."""
        with nogil:
            while load_acquire_u32(&self.phase) != STOP:
                step(self.sides, self.n_sides, load_acquire_u32(&self.phase) == FLOOD)

    def step(self) -> int:
        """One burst each way at every guest. Returns frames received. Not while run() runs."""
        with nogil:
            n = step(self.sides, self.n_sides, self.phase == FLOOD)
        return n

    def flood(self):
        """Send, from now on or again."""
        store_release_u32(&self.phase, FLOOD)

    def drain(self):
        """Send no more, keep receiving."""
        store_release_u32(&self.phase, DRAIN)

    def stop(self):
        """run() returns."""
        store_release_u32(&self.phase, STOP)

    def latency(self, double seconds, double gap_us, int limit=1_000_000) -> tuple[list[int], int]:
        """One frame in flight from the first guest to the second. Nanoseconds of each, and how many were lost."""
        cdef Side *sender = self.sides[0]
        cdef Side *receiver = self.sides[1]
        cdef int64_t end = now() + <int64_t>(seconds * 1e9)
        cdef int64_t gap = <int64_t>(gap_us * 1e3)
        cdef int64_t took
        cdef int lost = 0
        if self.n_sides < 2:
            raise ValueError("latency needs two guests")
        samples = []
        while now() < end and len(samples) < limit and lost < 3:
            with nogil:
                took = fly_one(sender, receiver, gap)
            if took >= 0:
                samples.append(took)
            else:
                lost += 1
        return samples, lost


cdef uint32_t step(Side **sides, uint32_t n_sides, bint flood) noexcept nogil:
    cdef uint32_t n = 0
    cdef uint32_t i
    for i in range(n_sides):
        n += receive_burst(sides[i])
        send_burst(sides[i], flood)
    return n


cdef uint32_t receive_burst(Side *side) noexcept nogil:
    """Take what arrived, look at it, and give the buffers back. Returns frames."""
    cdef Completion done[DRIVER_BURST]
    cdef uint32_t n = side.format.take(&side.receiveq, done, DRIVER_BURST)
    cdef uint64_t n_frames = side.received.frames
    cdef uint32_t n_bytes = 0
    cdef uint32_t used = n
    cdef uint32_t i
    if n == 0:
        return 0
    if side.content == CONTENT_NONE and not side.spans:
        for i in range(n):
            n_bytes += done[i].bytes
        side.received.bytes += n_bytes - n * side.header_bytes
        side.received.frames += n
    else:
        for i in range(n):
            prefetch_read(side.receive_data + done[i].slot * <uint64_t>side.receive_stride)
        used = look_at_single(side, done, n) if not side.spans else look_at_spanning(side, done, n)
    side.format.give(&side.receiveq, done, used)
    return <uint32_t>(side.received.frames - n_frames)


cdef inline bint header_is_right(const Side *side, const uint8_t *header, uint32_t n_buffers) noexcept nogil:
    """No offload was negotiated: zeros, and the number of buffers where that counts. Section 5.1.6.4."""
    cdef uint64_t words
    cdef uint32_t tail
    memcpy(&words, header, 8)
    memcpy(&tail, header + 8, 4)
    return words | ((tail ^ n_buffers * side.header_tail) & side.header_tail_mask) == 0


cdef uint32_t look_at_single(Side *side, const Completion *done, uint32_t n) noexcept nogil:
    """Frames of one buffer each."""
    cdef Stream *stream = &side.received
    cdef const uint8_t *data = side.receive_data
    cdef const uint8_t *header
    cdef uint64_t stride = side.receive_stride
    cdef uint64_t expected = stream.expected
    cdef uint32_t header_bytes = side.header_bytes
    cdef uint64_t n_bytes = 0
    cdef uint32_t frame_bytes, i
    cdef bint whole = side.content == CONTENT_WHOLE
    for i in range(n):
        header = data + done[i].slot * stride
        frame_bytes = done[i].bytes - header_bytes
        n_bytes += frame_bytes
        if header_is_right(side, header, 1) and has_number(header + header_bytes, expected, frame_bytes):
            expected += 1
            if whole:
                check_body(stream, header + header_bytes, frame_bytes, expected - 1)
        else:
            n_bytes -= frame_bytes
            stream.expected = expected
            n_bytes += look_twice(side, header, frame_bytes)
            expected = stream.expected
    stream.expected = expected
    stream.bytes += n_bytes
    stream.frames += n
    return n


cdef void check_body(Stream *stream, const uint8_t *frame, uint32_t frame_bytes, uint64_t number) noexcept nogil:
    if not body_is_right(frame + BODY_OFFSET, number, BODY_OFFSET, frame_bytes - BODY_OFFSET):
        stream.corrupt += 1


cdef uint32_t look_twice(Side *side, const uint8_t *header, uint32_t frame_bytes) noexcept nogil:
    """A frame that is not as expected. Returns its bytes, as far as they are to be believed."""
    if frame_bytes > side.receive_bytes - side.header_bytes or not header_is_right(side, header, 1):
        side.received.corrupt += 1
        return 0
    number_is_not_next(&side.received, header + side.header_bytes, frame_bytes)
    return frame_bytes


cdef uint32_t look_at_spanning(Side *side, const Completion *done, uint32_t n) noexcept nogil:
    """Frames of one or more buffers. Returns the buffers looked at: a frame cut off by the burst's end is left."""
    cdef const uint8_t *header
    cdef uint16_t n_buffers
    cdef uint32_t i = 0
    while i < n:
        header = side.receive_data + done[i].slot * <uint64_t>side.receive_stride
        memcpy(&n_buffers, header + NET_HDR_NUM_BUFFERS_OFFSET, 2)
        if n_buffers == 0 or n_buffers > DRIVER_BURST:
            n_buffers = 1
            side.received.corrupt += 1
        elif n_buffers > n - i:
            if n == DRIVER_BURST and i > 0:
                side.format.untake(&side.receiveq, n - i)
                break
            n_buffers = <uint16_t>(n - i)    # a frame's buffers are used at once, or Linux too counts it as an error
            side.received.corrupt += 1
        else:
            look_at_buffers(side, &done[i], n_buffers)
        side.received.frames += 1
        i += n_buffers
    return i


cdef void look_at_buffers(Side *side, const Completion *done, uint32_t n_buffers) noexcept nogil:
    """One frame that lies in n_buffers buffers, header in the first. Section 5.1.6.4."""
    cdef Stream *stream = &side.received
    cdef const uint8_t *first = side.receive_data + done[0].slot * <uint64_t>side.receive_stride
    cdef const uint8_t *data
    cdef uint64_t number = stream.expected
    cdef uint64_t total = 0
    cdef uint32_t position, n_bytes, skip, i
    cdef bint right
    for i in range(n_buffers):
        if done[i].bytes > side.receive_bytes:
            stream.corrupt += 1
            return
        total += done[i].bytes
    if done[0].bytes < side.header_bytes or not header_is_right(side, first, n_buffers):
        stream.corrupt += 1
        return
    total -= side.header_bytes
    stream.bytes += total
    if side.content == CONTENT_NONE:
        return
    if done[0].bytes < side.header_bytes + BODY_OFFSET:
        stream.corrupt += 1
        return
    if not has_number(first + side.header_bytes, stream.expected, <uint32_t>total):
        number_is_not_next(stream, first + side.header_bytes, <uint32_t>total)
        return
    stream.expected += 1
    if side.content == CONTENT_WHOLE:
        position = BODY_OFFSET
        skip = side.header_bytes + BODY_OFFSET
        right = True
        for i in range(n_buffers):
            data = side.receive_data + done[i].slot * <uint64_t>side.receive_stride
            n_bytes = done[i].bytes - skip
            right &= body_is_right(data + skip, number, position, n_bytes)
            position += n_bytes
            skip = 0
        stream.corrupt += not right


cdef void send_burst(Side *side, bint flood) noexcept nogil:
    """Take back what was sent and, in a flood, send it again under new numbers."""
    cdef Completion slots[DRIVER_BURST]
    cdef uint32_t n = side.format.take(&side.transmitq, slots, DRIVER_BURST)
    cdef uint32_t i
    if not (flood and side.sends):
        for i in range(n):
            side.idle[side.n_idle] = slots[i]
            side.n_idle += 1
        return
    while n < DRIVER_BURST and side.n_idle > 0:
        side.n_idle -= 1
        slots[n] = side.idle[side.n_idle]
        n += 1
    if n > 0:
        send(side, slots, n)


cdef void send(Side *side, const Completion *slots, uint32_t n) noexcept nogil:
    """Number the frames of these slots and give them to the device."""
    cdef uint8_t *data = side.transmit_data + side.frame_offset
    cdef uint8_t *frame
    cdef const uint32_t *sizes = side.frame_bytes
    cdef uint64_t stride = side.transmit_stride
    cdef uint64_t number = side.next_number
    cdef uint64_t n_bytes = 0
    cdef uint32_t frame_bytes, i
    cdef Content content = side.content
    for i in range(n):
        frame_bytes = sizes[slots[i].slot]
        n_bytes += frame_bytes
        if content != CONTENT_NONE:
            frame = data + slots[i].slot * stride
            number_frame(frame, number + i, frame_bytes)
            if content == CONTENT_WHOLE:
                fill_frame(side, frame, frame_bytes, number + i)
    # Counted first: nobody who reads both counters sees more received than sent.
    side.next_number = number + n
    side.sent_bytes += n_bytes
    side.sent_frames += n
    side.format.give(&side.transmitq, slots, n)


cdef void fill_frame(const Side *side, uint8_t *frame, uint32_t frame_bytes, uint64_t number) noexcept nogil:
    cdef uint32_t start, end, part
    for part in range(side.n_parts):
        start = part_position(frame_bytes, side.n_parts, part)
        end = part_position(frame_bytes, side.n_parts, part + 1)
        if part == 0:
            start = BODY_OFFSET    # in front of it: the Ethernet header, the number, the check word
        fill_body(frame + start + PIECE_GAP * part, number, start, end - start)


cdef int64_t fly_one(Side *sender, Side *receiver, int64_t gap) noexcept nogil:
    """Nanoseconds until a frame sent by one guest is seen by the other, or -1 after a second."""
    cdef Completion slot
    cdef int64_t sent, seen
    if sender.n_idle == 0:
        return -1
    sender.n_idle -= 1
    slot = sender.idle[sender.n_idle]
    sent = now()
    send(sender, &slot, 1)
    while receive_burst(receiver) == 0:
        if now() - sent > 1_000_000_000:
            send_burst(sender, False)
            return -1
    seen = now()
    while sender.transmitq.n_given > 0 and now() - seen < 1_000_000_000:
        send_burst(sender, False)
    while now() - seen < gap:
        pass
    return seen - sent


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec
