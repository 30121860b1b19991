"""The load: guests that send and receive as fast as their device lets them, all in one thread.

`run()` steps until it is told to stop. A step moves one burst each way at every queue pair. The thread sleeps only with
`sleeps`: then it asks for notifications, looks once more, and blocks until a device notifies it.
"""

import os

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastvhost.abi.shared_memory cimport (
    full_fence, load_acquire_u32, load_u64, prefetch_write, store_release_u32,
)
from fastvhost.driver.content cimport (
    BODY_OFFSET, CONTENT_NONE, CONTENT_WHOLE, NUMBER_OFFSET, Content, Stream, fill_body, number_frame,
)
from fastvhost.driver.device cimport PIECE_GAP, GuestDevice, Pair, part_position, pop_idle, push_idle
from fastvhost.driver.queue cimport DRIVER_BURST, Completion
from fastvhost.driver.verify cimport verify_burst

cdef extern from "<poll.h>" nogil:
    int poll(pollfd *fds, unsigned long n, int timeout_ms)
    const short POLLIN
cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buf, size_t count)

cdef enum:
    MAX_GUESTS = 256       # one for each tag: what a receiver tells senders apart by
    SECOND = 1_000_000_000
    NAP_MS = 1000          # where nothing notifies for so long though there is something to do, a notification was lost

cdef enum Phase:
    FLOOD          # send again what came back
    DRAIN          # send no more, keep receiving
    STOP


@cython.final
cdef class Load:
    """Runs the traffic of some guests. The devices stay the caller's."""

    def __cinit__(self, *devices: GuestDevice, bint sleeps=False):
        cdef GuestDevice device
        cdef uint32_t i
        if not 1 <= len(devices) <= MAX_GUESTS:
            raise ValueError(f"{len(devices)} guests: give 1..{MAX_GUESTS}")
        for device in devices:
            if device is None:
                raise TypeError("a load of no guest: give GuestDevice objects")
        if len(set(map(id, devices))) != len(devices):
            raise ValueError("a guest is in this load twice: give each once")
        self.devices = devices
        n_sides = sum([device.queues for device in devices])
        self.sides = <Pair **>calloc(n_sides, sizeof(Pair *))
        self.calls = <pollfd *>calloc(2 * n_sides, sizeof(pollfd))
        if self.sides == NULL or self.calls == NULL:
            raise MemoryError("guest load: no memory for its queue pairs")
        for device in devices:
            for i in range(device.queues):
                self.sides[self.n_sides] = &device.sides[i]
                self.calls[2 * self.n_sides].fd = device.call_fds[2 * i]
                self.calls[2 * self.n_sides + 1].fd = device.call_fds[2 * i + 1]
                self.n_sides += 1
        self.phase = FLOOD
        self.sleeps = sleeps

    def __dealloc__(self):
        free(self.sides)
        free(self.calls)

    cdef list begin(self):
        """Claim the devices for this call, until end()."""
        cdef GuestDevice device
        begun = []
        try:
            for device in self.devices:
                device.begin(&device.loaded)
                begun.append(device)
        except BaseException:
            self.end(begun)
            raise
        return begun

    cdef int end(self, list begun) except -1:
        cdef GuestDevice device
        for device in begun:
            device.loaded = False
        return 0

    def run(self):
        """Until stop(). Call it in a thread of its own; the GIL is free meanwhile."""
        cdef bint moved
        begun = self.begin()
        try:
            with nogil:
                while load_acquire_u32(&self.phase) != STOP:
                    step(self.sides, self.n_sides, load_acquire_u32(&self.phase) == FLOOD, &moved)
                    if self.sleeps and not moved:
                        self.nap()
        finally:
            self.end(begun)

    cdef void nap(self) noexcept nogil:
        """Sleep until a device notifies. If none does for a second though something was used, count a stall."""
        cdef uint32_t n = self.n_sides
        cdef uint64_t count
        cdef uint32_t i
        for i in range(n):
            self.sides[i].format.want_calls(&self.sides[i].receiveq, True)
            self.sides[i].format.want_calls(&self.sides[i].transmitq, True)
        full_fence()    # first ask, then look at the rings; the device fences between its store and its look (publish)
        if not self.something_used() and load_acquire_u32(&self.phase) != STOP:
            for i in range(2 * n):
                self.calls[i].events = POLLIN
            self.n_naps += 1
            if poll(self.calls, 2 * n, NAP_MS) == 0 and self.something_used():
                self.n_stalls += 1
            for i in range(2 * n):
                if self.calls[i].revents & POLLIN and read(self.calls[i].fd, &count, 8) < 0:
                    pass    # somebody else took it: a device may notify once more than it must
        for i in range(n):
            self.sides[i].format.want_calls(&self.sides[i].receiveq, False)
            self.sides[i].format.want_calls(&self.sides[i].transmitq, False)

    cdef bint something_used(self) noexcept nogil:
        cdef Pair *side
        cdef uint32_t i
        for i in range(self.n_sides):
            side = self.sides[i]
            if side.format.has_used(&side.receiveq) or side.format.has_used(&side.transmitq):
                return True
        return False

    @property
    def naps(self) -> int:
        """How often it slept."""
        return load_u64(&self.n_naps)

    @property
    def stalls(self) -> int:
        """How often a second passed with something to do and no notification: each is a lost one."""
        return load_u64(&self.n_stalls)

    def step(self) -> int:
        """One burst each way at every queue pair. Returns frames received. Not while run() runs."""
        begun = self.begin()
        with nogil:
            n = self.take_turn()
        self.end(begun)
        return n

    cdef uint32_t take_turn(self) noexcept nogil:
        cdef bint moved
        return step(self.sides, self.n_sides, self.phase == FLOOD, &moved)

    def flood(self):
        """Send, from now on or again."""
        store_release_u32(&self.phase, FLOOD)

    def drain(self):
        """Send no more, keep receiving."""
        store_release_u32(&self.phase, DRAIN)

    def stop(self):
        """run() returns."""
        store_release_u32(&self.phase, STOP)
        call_fds = self.devices[0].call_fds
        if self.sleeps and call_fds:
            os.eventfd_write(call_fds[0], 1)

    def latency(self, double seconds, double gap_us, int limit=1_000_000) -> tuple[list[int], int]:
        """Frames from the first guest to the second, one in flight at a time. Nanoseconds of each; the number lost."""
        cdef GuestDevice receiving = self.devices[len(self.devices) > 1]
        cdef Pair *sender = self.sides[0]
        cdef Pair *receiver = &receiving.sides[0]
        cdef int64_t end = now() + <int64_t>(seconds * 1e9)
        cdef int64_t gap = <int64_t>(gap_us * 1e3)
        cdef int64_t took
        cdef int lost = 0
        if len(self.devices) < 2:
            raise ValueError("latency needs two guests")
        samples = []
        begun = self.begin()
        try:
            store_release_u32(&self.phase, DRAIN)    # until stop()
            while now() < end and len(samples) < limit and lost < 3 and load_acquire_u32(&self.phase) != STOP:
                with nogil:
                    took = fly_one(sender, receiver, gap)
                if took >= 0:
                    samples.append(took)
                else:
                    lost += 1
        finally:
            self.end(begun)
        return samples, lost

    def latency_under_load(
        self, double seconds, double frames_per_second=0, int limit=100_000
    ) -> tuple[list[int], float]:
        """One-way nanoseconds from the first guest to the second of frames picked out of a flood, or of so many frames
        per second and sending queue pair. Also, the frames per second that the guests received meanwhile."""
        cdef GuestDevice receiving = self.devices[len(self.devices) > 1]
        cdef int64_t *samples = <int64_t *>calloc(limit, sizeof(int64_t))
        cdef uint64_t *sent_before = <uint64_t *>calloc(self.n_sides, sizeof(uint64_t))
        cdef uint64_t received = 0
        cdef int64_t took
        cdef int n = 0
        if len(self.devices) < 2 or samples == NULL or sent_before == NULL:
            free(samples)
            free(sent_before)
            raise ValueError("latency needs two guests, and memory for its samples")
        begun = []
        try:
            begun = self.begin()
            with nogil:
                took = now()
                n = self.pick(&receiving.streams[0], seconds, frames_per_second, samples, limit, sent_before, &received)
                took = now() - took
            return [samples[i] for i in range(n)], received * 1e9 / took
        finally:
            self.end(begun)
            free(samples)
            free(sent_before)

    cdef int pick(
        self, const Stream *stream, double seconds, double frames_per_second, int64_t *samples, int limit,
        uint64_t *sent_before, uint64_t *received,
    ) noexcept nogil:
        """Time single frames: note when the first one of a burst is sent, and when its number is received."""
        cdef int64_t start = now(), end = start + <int64_t>(seconds * SECOND), time = start, noted_at = 0
        cdef uint64_t noted = 0, number
        cdef Pair *side
        cdef uint32_t i
        cdef int n = 0
        for i in range(self.n_sides):
            sent_before[i] = self.sides[i].sent_frames
        store_release_u32(&self.phase, DRAIN)    # until stop()
        while time < end and n < limit and load_acquire_u32(&self.phase) != STOP:
            for i in range(self.n_sides):
                side = self.sides[i]
                received[0] += receive_burst(side)
                time = now()
                if noted_at and stream.expected > noted:
                    samples[n] = time - noted_at
                    noted_at = 0
                    n += 1
                    if n == limit:
                        break
                number = side.next_number
                send_burst(side, allowance(side, time - start, frames_per_second, sent_before[i]))
                if i == 0 and not noted_at and side.next_number != number:
                    noted, noted_at = number, time
        return n


cdef uint32_t allowance(const Pair *side, int64_t since, double frames_per_second, uint64_t sent_before) noexcept nogil:
    """How many frames a side may send now. frames_per_second 0: as many as it can."""
    cdef int64_t due
    if not side.sends:
        return 0
    if frames_per_second == 0:
        return DRIVER_BURST
    due = <int64_t>(frames_per_second * since / SECOND) - <int64_t>(side.sent_frames - sent_before)
    return <uint32_t>max(<int64_t>0, min(due, <int64_t>DRIVER_BURST))


cdef uint32_t step(Pair **sides, uint32_t n_sides, bint flood, bint *moved) noexcept nogil:
    cdef uint32_t n = 0
    cdef uint32_t sent = 0
    cdef uint32_t i
    for i in range(n_sides):
        n += receive_burst(sides[i])
        sent += send_burst(sides[i], DRIVER_BURST if flood and sides[i].sends else 0)
    moved[0] = (n | sent) != 0
    return n


cdef uint32_t receive_burst(Pair *side) noexcept nogil:
    """Take what arrived, verify it, and give the buffers back. Returns how many frames."""
    cdef Completion done[DRIVER_BURST]
    cdef uint32_t n = side.format.take(&side.receiveq, done, DRIVER_BURST)
    cdef uint64_t n_frames = side.received_frames
    if n == 0:
        return 0
    side.format.give(&side.receiveq, done, verify_burst(side, done, n))
    return <uint32_t>(side.received_frames - n_frames)


cdef uint32_t send_burst(Pair *side, uint32_t most) noexcept nogil:
    """Take back what was sent, and send up to `most` frames with new numbers. Not 0: something moved."""
    cdef Completion slots[DRIVER_BURST]
    cdef uint32_t n = side.format.take(&side.transmitq, slots, DRIVER_BURST)
    cdef uint32_t returned = n
    cdef uint32_t i
    if most < DRIVER_BURST or side.n_idle > 0:
        for i in range(n):
            push_idle(side, slots[i])
        n = min(side.n_idle, most)
        for i in range(n):
            slots[i] = pop_idle(side)
    if n > 0:
        send(side, slots, n)
    return n | returned


cdef void send(Pair *side, const Completion *slots, uint32_t n) noexcept nogil:
    """Number the frames of these slots and give them to the device."""
    cdef uint8_t *data = side.transmit_data + side.frame_offset + side.sent_lead
    cdef uint8_t *frame
    cdef const uint32_t *sizes = side.frame_bytes
    cdef uint64_t stride = side.transmit_stride
    cdef uint64_t number = side.next_number
    cdef uint64_t n_bytes = 0
    cdef uint32_t frame_bytes, i
    cdef Content content = side.content
    if content != CONTENT_NONE:
        for i in range(n):    # all at once: these lines are in the cache of the device's core, and are written next
            prefetch_write(data + slots[i].slot * stride + NUMBER_OFFSET)
    for i in range(n):
        frame_bytes = sizes[slots[i].slot]
        n_bytes += frame_bytes
        if content != CONTENT_NONE:
            frame = data + slots[i].slot * stride
            number_frame(frame, number + i, frame_bytes - side.sent_lead)
            if content == CONTENT_WHOLE:
                fill_frame(side, frame, frame_bytes - side.sent_lead, number + i)
    # Counted before they are given: so a reader of both counters sees no more received than sent.
    side.next_number = number + n
    side.sent_bytes += n_bytes
    side.sent_frames += n
    side.format.give(&side.transmitq, slots, n)


cdef void fill_frame(const Pair *side, uint8_t *frame, uint32_t frame_bytes, uint64_t number) noexcept nogil:
    cdef uint32_t start, end, part
    for part in range(side.n_parts):
        start = part_position(frame_bytes, side.n_parts, part)
        end = part_position(frame_bytes, side.n_parts, part + 1)
        if part == 0:
            start = BODY_OFFSET    # in front of it: the Ethernet header, the number, the check word
        fill_body(frame + start + PIECE_GAP * part, number, start, end - start)


cdef int64_t fly_one(Pair *sender, Pair *receiver, int64_t gap) noexcept nogil:
    """Nanoseconds until a frame sent by one guest is seen by the other, or -1 after a second."""
    cdef Completion slot
    cdef int64_t sent, seen
    if sender.n_idle == 0:
        return -1
    slot = pop_idle(sender)
    sent = now()
    send(sender, &slot, 1)
    while receive_burst(receiver) == 0:
        if now() - sent > 1_000_000_000:
            send_burst(sender, 0)
            return -1
    seen = now()
    while sender.transmitq.n_given > 0 and now() - seen < 1_000_000_000:
        send_burst(sender, 0)
    while now() - seen < gap:
        pass
    return seen - sent


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec
