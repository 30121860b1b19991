"""A driver and a device at the two ends of one transmitq, each in a thread of its own, racing for a lost wake-up.

The driver is the built-in one, the device the back-end's own ring. Both go on for ever through the same three steps: do
something, say (or not) that they want to be told of more, and wait for it, sometimes by looking and sometimes by
"sleeping" until told. Nobody blocks in the kernel: asleep means not to look at the ring until the other side counts up
a doorbell, which makes a round trip short enough to try the few nanoseconds that matter millions of times. What comes
after the decision to notify, an eventfd and a poll, is not raced here; tests/unit/test_idle.py and the sleeping guests
of tests/unit/test_driver_queues.py do that.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport (
    cpu_pause, full_fence, load_acquire_u16, load_acquire_u32, load_u16, load_u64, store_release_u16, store_release_u32,
    store_u16, store_u64,
)
from fastvhost.abi.virtio_packed cimport (
    RING_EVENT_FLAGS_DESC, RING_EVENT_FLAGS_DISABLE, RING_EVENT_WRAP_BIT, pvirtq_desc, pvirtq_event_suppress,
)
from fastvhost.abi.virtio_ring cimport VIRTQ_AVAIL_F_NO_INTERRUPT, virtq_avail, virtq_used
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.frame cimport BURST, MAX_SEGMENTS, Chain, Done, Segment
from fastvhost.dataplane.ring cimport RING_OK, Ring
from fastvhost.dataplane.virtio_port cimport VirtioPort
from fastvhost.driver.device cimport GuestDevice, Pair, pop_idle, push_idle
from fastvhost.driver.queue cimport Completion, DriverQueue

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    TRANSMITQ = 1
    MOST = 4                       # chains in one ping
    AVAIL_FLAG = 1 << 7            # section 2.8.1
    USED_FLAG = 1 << 15
    SPINS = 256                    # before a waiting thread lets others run
    CLOG = 8                       # cache lines, stores into which are under way when a side goes to sleep
    LINE = 8                       # words of 8 bytes in a cache line


cdef uint32_t random_below(uint64_t *state, uint32_t n) noexcept nogil:
    """0..n-1. Marsaglia's xorshift64."""
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return <uint32_t>(state[0] >> 32) % n


cdef void dawdle(uint64_t *state) noexcept nogil:
    """For a few nanoseconds, so that the two threads meet at every offset."""
    cdef uint32_t _i
    for _i in range(random_below(state, 8)):
        cpu_pause()


@cython.final
cdef class PingPong:
    """device: a guest with one queue pair that kicks; port: where its transmitq is live, and no worker runs.

    publish_fence, sleep_fence: False leaves out the fence that the back-end has there, to show that it is missed.
    clogged: the device's stores are slow to be seen, for others stand before them in its store buffer.
    """

    cdef GuestDevice device
    cdef VirtioPort port
    cdef Pair *side
    cdef Ring *ring
    cdef bint sleep_fence
    cdef bint clogged
    cdef uint64_t lines[CLOG * LINE]
    cdef uint64_t stall_ns
    cdef uint64_t seed
    cdef uint32_t stopping
    cdef uint64_t calls            # the driver's doorbell; the device's is DriverQueue.kicks
    # the driver's thread
    cdef readonly uint64_t rounds
    cdef readonly uint64_t driver_sleeps
    cdef readonly uint64_t driver_stalls
    cdef readonly uint64_t driver_longest_ns  # sleep
    # the device's thread
    cdef readonly uint64_t device_sleeps
    cdef readonly uint64_t device_stalls
    cdef readonly uint64_t device_longest_ns

    def __init__(
        self, GuestDevice device not None, VirtioPort port not None, *, uint64_t seed, double stall_seconds=1.0,
        bint publish_fence=True, bint sleep_fence=True, bint clogged=False,
    ):
        self.device, self.port, self.seed, self.sleep_fence = device, port, seed | 1, sleep_fence
        self.clogged = clogged
        self.side, self.ring = &device.sides[0], &port.queue(TRANSMITQ).ring
        self.stall_ns = <uint64_t>(stall_seconds * 1e9)
        if not publish_fence:
            self.ring.publish = publish_packed_unfenced if device.packed else publish_split_unfenced

    def drive(self, uint64_t rounds) -> None:
        """The driver: so many pings, each of up to four chains, each returned before the next. Ends serve(), too."""
        with nogil:
            self.drive_on(rounds)
            store_release_u32(&self.stopping, 1)

    def serve(self) -> int:
        """The device: takes and completes chains until drive() ends. Returns the ring's status, 0 if all is well."""
        with nogil:
            self.serve_on()
        return self.ring.status

    def stop(self) -> None:
        store_release_u32(&self.stopping, 1)

    cdef bint stopped(self) noexcept nogil:
        return load_acquire_u32(&self.stopping) != 0

    cdef void drive_on(self, uint64_t rounds) noexcept nogil:
        cdef Completion slots[MOST]
        cdef DriverQueue *queue = &self.side.transmitq
        cdef uint64_t state = self.seed
        cdef uint32_t n, i, got, left, ahead
        while self.rounds < rounds and not self.stopped():
            n = 1 + random_below(&state, MOST)
            for i in range(n):
                slots[i] = pop_idle(self.side)
            if self.clogged:
                self.share_lines()
            dawdle(&state)
            self.side.format.give(queue, slots, n)
            left = n
            while left and not self.stopped():
                if random_below(&state, 2):
                    ahead = random_below(&state, left)
                    self.driver_sleep(queue, ahead, &state)
                else:
                    cpu_pause()
                got = self.side.format.take(queue, slots, left)
                for i in range(got):
                    push_idle(self.side, slots[i])
                left -= got
            self.rounds += 1

    cdef void driver_sleep(self, DriverQueue *queue, uint32_t ahead, uint64_t *state) noexcept nogil:
        """Until told that one more than `ahead` chains are used. Sections 2.7.7, 2.7.10 and 2.8.10."""
        cdef uint64_t seen = load_u64(&self.calls), since = 0
        cdef uint32_t spins = 0, behind = ahead if queue.event_idx else 0
        want_calls_from(queue, self.device.packed, ahead)
        full_fence()
        if not used_ahead(queue, self.device.packed, behind):
            self.driver_sleeps += 1
            while load_u64(&self.calls) == seen and not self.stopped():
                cpu_pause()
                spins += 1
                if spins % SPINS == 0:
                    sched_yield()
                    since = since or monotonic_ns()
                    if monotonic_ns() > since + self.stall_ns and used_ahead(queue, self.device.packed, ahead):
                        self.driver_stalls += load_u64(&self.calls) == seen
                        break
            if since:
                self.driver_longest_ns = max(self.driver_longest_ns, monotonic_ns() - since)
        if random_below(state, 2):
            self.side.format.want_calls(queue, False)

    cdef void serve_on(self) noexcept nogil:
        cdef Ring *ring = self.ring
        cdef Chain chains[BURST]
        cdef Done done[BURST]
        cdef Segment segments[BURST]
        cdef uint64_t state = self.seed * 3
        cdef uint32_t n, i, n_segments, empty = 0
        while not self.stopped() and ring.status == RING_OK:
            n_segments = 0
            n = ring.take(ring, chains, 1 + random_below(&state, MOST), segments, &n_segments)
            if n == 0:
                empty += 1
                if random_below(&state, 2):
                    self.device_sleep(&state)
                elif empty % SPINS == 0:
                    sched_yield()
                continue
            for i in range(n):
                done[i] = Done(chains[i].ticket, 0)
            dawdle(&state)
            ring.complete(ring, done, n)
            if ring.publish(ring):
                store_u64(&self.calls, self.calls + 1)

    cdef void device_sleep(self, uint64_t *state) noexcept nogil:
        """As a worker does it (idle.pyx)."""
        cdef Ring *ring = self.ring
        cdef DriverQueue *queue = &self.side.transmitq
        cdef uint64_t seen = load_u64(&queue.kicks), since = 0
        cdef uint32_t spins = 0
        if self.clogged:
            self.dirty_lines()
        ring.want_kicks(ring, True)
        if self.sleep_fence:
            full_fence()
        if not ring.has_work(ring):
            self.device_sleeps += 1
            while load_u64(&queue.kicks) == seen and not self.stopped():
                cpu_pause()
                spins += 1
                if spins % SPINS == 0:
                    sched_yield()
                    since = since or monotonic_ns()
                    if monotonic_ns() > since + self.stall_ns and ring.has_work(ring):
                        self.device_stalls += load_u64(&queue.kicks) == seen
                        break
            if since:
                self.device_longest_ns = max(self.device_longest_ns, monotonic_ns() - since)
        if random_below(state, 2):
            ring.want_kicks(ring, False)

    cdef void dirty_lines(self) noexcept nogil:
        """Stores that wait for cache lines which the other side has: those behind them wait, too."""
        cdef uint32_t i
        for i in range(<uint32_t>CLOG):
            store_u64(&self.lines[i * LINE], self.device_sleeps)

    cdef void share_lines(self) noexcept nogil:
        cdef uint32_t i
        for i in range(<uint32_t>CLOG):
            load_u64(&self.lines[i * LINE])


cdef void want_calls_from(DriverQueue *queue, bint packed, uint32_t ahead) noexcept nogil:
    """Ask for a notification once the entry so far ahead is used; without EVENT_IDX, at the next publication."""
    cdef pvirtq_event_suppress *driver = <pvirtq_event_suppress *>queue.driver_area
    cdef uint32_t at = queue.next_used + ahead, wrap = queue.used_wrap
    if packed:
        if queue.event_idx:
            if at >= queue.size:
                at -= queue.size
                wrap ^= 1
            store_u16(&driver.flags, RING_EVENT_FLAGS_DISABLE)
            store_release_u16(&driver.off_wrap, <uint16_t>(at | wrap << RING_EVENT_WRAP_BIT))
            store_release_u16(&driver.flags, RING_EVENT_FLAGS_DESC)
        else:
            store_u16(&driver.flags, 0)
    elif queue.event_idx:
        store_u16(&(<virtq_avail *>queue.driver_area).ring[queue.size], <uint16_t>at)
    else:
        store_u16(&(<virtq_avail *>queue.driver_area).flags, 0)


cdef bint used_ahead(const DriverQueue *queue, bint packed, uint32_t ahead) noexcept nogil:
    """Whether more than `ahead` chains are used and not taken: each has one descriptor, and they are used in order."""
    cdef uint32_t at = queue.next_used + ahead, wrap = queue.used_wrap
    cdef uint16_t flags
    if not packed:
        return <uint16_t>(load_acquire_u16(&(<virtq_used *>queue.device_area).idx) - queue.next_used) > ahead
    if at >= queue.size:
        at -= queue.size
        wrap ^= 1
    flags = load_acquire_u16(&(<pvirtq_desc *>queue.descriptor_area)[at].flags) & (AVAIL_FLAG | USED_FLAG)
    return flags == (AVAIL_FLAG | USED_FLAG if wrap else 0)


cdef bint publish_split_unfenced(Ring *ring) noexcept nogil:
    """split_ring's publish, less its fence."""
    cdef virtq_used *used = <virtq_used *>ring.device_area
    cdef virtq_avail *avail = <virtq_avail *>ring.driver_area
    cdef uint16_t new = ring.next_used, old = ring.published
    if new == old:
        return False
    store_release_u16(&used.idx, new)
    ring.published = new
    if ring.event_idx:
        return <uint16_t>(new - load_u16(&avail.ring[ring.size]) - 1) < <uint16_t>(new - old)
    return not load_u16(&avail.flags) & VIRTQ_AVAIL_F_NO_INTERRUPT


cdef bint publish_packed_unfenced(Ring *ring) noexcept nogil:
    """packed_ring's publish, less its fence."""
    cdef pvirtq_desc *desc = <pvirtq_desc *>ring.descriptor_area
    cdef pvirtq_event_suppress *driver = <pvirtq_event_suppress *>ring.driver_area
    cdef uint16_t staged = ring.staged, flags, off_wrap, event
    if staged == 0:
        return False
    store_release_u16(&desc[ring.published].flags, ring.first_flags)
    ring.published = ring.next_used
    ring.staged = 0
    flags = load_u16(&driver.flags)
    if flags != RING_EVENT_FLAGS_DESC or not ring.event_idx:
        return flags != RING_EVENT_FLAGS_DISABLE
    off_wrap = load_u16(&driver.off_wrap)
    event = off_wrap & ((1 << RING_EVENT_WRAP_BIT) - 1)
    if (off_wrap >> RING_EVENT_WRAP_BIT) != ring.used_wrap:
        event -= ring.size
    return <uint16_t>(ring.next_used - event - 1) < staged
