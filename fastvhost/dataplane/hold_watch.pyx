"""Finds workers that wait in the kernel for a page, and the port whose memory it is.

A missing page (swapped out, on a slow disk, or in a hole that is just being punched into the file) makes a thread that
touches it wait in the kernel. A worker notes where it is by a few plain stores a visit: the lane, since when, whether
it delivers, and whether it copies. The watch finds the worker in an uninterruptible sleep, at the same place before and
after that look. While the worker takes from a ring or gives back to it, that ring's port is charged. A copy touches two
guests' memory: then the watch touches the pages of each side itself, and the side whose pages make the watch wait as
well is charged with that time. So a port is not charged for its peer, even where pages of its own are missing: those
come at once.

First of all the watch touches a new page of this process: where even that takes long, the kernel makes everybody wait,
and no port is charged.
"""

import os
import time
from typing import NamedTuple

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32, store_release_u32
from fastvhost.abi.virtio_net cimport NET_HDR_BYTES
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.door cimport Gate
from fastvhost.dataplane.eventfd cimport POLLIN, poll, pollfd
from fastvhost.dataplane.forward.lane cimport Exit, Lane
from fastvhost.dataplane.frame cimport BURST, MAX_SEGMENTS, Chain, Delivery, Segment
from fastvhost.dataplane.guest_memory cimport GuestMemory, RegionTable, holds_host
from fastvhost.dataplane.receiveq cimport MAX_RECEIVE_CHAINS, NetScratch
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.roster cimport MOST_US, Roster
from fastvhost.dataplane.virtio_port cimport VirtioPort
from fastvhost.dataplane.wire cimport Wire
from fastvhost.dataplane.worker cimport Worker

cdef extern from "fastvhost/dataplane/touch.h" nogil:
    struct toucher:
        int sink
    int open_toucher(toucher *t, size_t page)
    void close_toucher(toucher *t, size_t page)
    int touch_pages(const toucher *t, uint8_t *const *pages, uint32_t n)
    int touch_own(const toucher *t, size_t page)
    int open_thread_stat(int thread)
    int waits_in_kernel(int fd)

cdef enum:
    LOOK_MS = 5                # while a worker is awake
    TROUBLED_LOOK_MS = 1       # for TROUBLE_NS after one was found held
    SLEEPY_LOOK_MS = 50        # while all of them sleep
    TROUBLE_NS = 100 * 1000 * 1000
    YOUNG_US = 200             # few visits take longer without waiting: shorter ones are not looked into
    PAGE = 4096                # the smallest that there are
    MOST_PAGES = 4096          # of a side of a copy; a visit's copies are on 25 to 350 pages


class Hold(NamedTuple):
    """A worker waited in the kernel for a port's memory."""

    worker: str
    port: str
    seconds: float
    visit: int


# Where a worker is, as the worker noted it.
cdef struct Place:
    Lane *lane
    uint64_t since             # ticks
    bint delivers
    const Exit *at             # where it delivers, and what
    uint32_t copying
    const Chain *alone
    uint32_t chain
    uint32_t n_chains


# A worker and what the watch knows of it.
cdef struct Watched:
    const Roster *roster
    const Gate *gate
    const NetScratch *scratch
    const int *thread
    int known_thread
    int stat_fd                # of that thread
    uint64_t charged           # ticks: its time up to then was charged
    Place place                # where it was found


# The memory that a copy touches on one side.
cdef struct Pages:
    uint8_t *at[MOST_PAGES]
    uint32_t n


cdef class HoldWatch:
    """Watches workers. For a thread of its own, which may block on guests' memory like a worker."""

    cdef list workers
    cdef list wires            # of each worker, whose lanes are looked at
    cdef Watched *watched
    cdef uint32_t n
    cdef uint32_t next         # the worker that is looked at first
    cdef uint32_t stopping
    cdef int wake_fd
    cdef bint waiting          # a thread is in wait()
    cdef uint64_t trouble      # monotonic ns
    cdef toucher toucher
    cdef Pages *pages

    def __cinit__(self, workers) -> None:
        cdef Worker worker
        cdef uint32_t i
        self.wake_fd = self.toucher.sink = -1
        self.workers = list(workers)
        self.wires = []
        self.watched = <Watched *>calloc(len(self.workers) + 1, sizeof(Watched))
        self.pages = <Pages *>calloc(1, sizeof(Pages))
        if self.watched == NULL or self.pages == NULL:
            raise MemoryError
        for i, each in enumerate(self.workers):
            if not isinstance(each, Worker):
                raise TypeError(f"only Worker objects can be watched, not {each!r}")
            worker = each
            if worker.gate == NULL:
                raise ValueError("this worker is closed, or was never made: make the watch before workers are closed")
            self.watched[i].roster, self.watched[i].gate = &worker.roster, worker.gate
            self.watched[i].scratch, self.watched[i].thread = worker.scratch, &worker.thread
            self.watched[i].stat_fd = -1
            self.wires.append(list(worker.wires))
        self.n = len(self.workers)
        if open_toucher(&self.toucher, PAGE):
            raise OSError("no page of memory or no eventfd to watch the workers with; raise LimitNOFILE=")
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __dealloc__(self) -> None:
        cdef uint32_t i
        for i in range(self.n):
            if self.watched[i].stat_fd >= 0:
                close(self.watched[i].stat_fd)
        close_toucher(&self.toucher, PAGE)
        if self.wake_fd >= 0:
            close(self.wake_fd)
        free(self.watched)
        free(self.pages)

    def meet(self, double seconds) -> bool:
        cdef uint32_t i
        deadline = time.monotonic() + seconds
        for i in range(self.n):
            while not knows(&self.watched[i]) and self.watched[i].known_thread == 0:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.0005)
        return True

    def wait(self) -> list[Hold]:
        cdef uint32_t i
        found = []
        if self.waiting:
            raise ValueError("another thread waits here already")
        self.waiting = True
        try:
            while not found:
                with nogil:
                    i = self.look_on()
                if i >= self.n:
                    break
                self.next = i + 1
                found = self.find_out(i)
        finally:
            self.waiting = False
        return found

    def stop(self) -> None:
        store_release_u32(&self.stopping, 1)
        os.eventfd_write(self.wake_fd, 1)

    cdef uint32_t look_on(self) noexcept nogil:
        """The number of a worker that is held; n: to stop."""
        cdef uint32_t i, left
        cdef pollfd wake
        while True:
            wake = pollfd(self.wake_fd, POLLIN, 0)
            poll(&wake, 1, self.pause_ms())
            if load_acquire_u32(&self.stopping):
                return self.n
            for left in range(self.n):
                i = self.next + left
                i = i if i < self.n else i - self.n
                if is_held(&self.watched[i]):
                    self.trouble = monotonic_ns()
                    return i

    cdef int pause_ms(self) noexcept nogil:
        cdef uint32_t i
        if self.trouble and monotonic_ns() - self.trouble < <uint64_t>TROUBLE_NS:
            return TROUBLED_LOOK_MS
        for i in range(self.n):
            if load_acquire_u32(&self.watched[i].gate.running) and not load_acquire_u32(&self.watched[i].gate.asleep):
                return LOOK_MS
        return SLEEPY_LOOK_MS

    cdef list find_out(self, uint32_t i):
        """Find the port whose memory holds this worker. Charges no port where that is not certain."""
        cdef Watched *one = &self.watched[i]
        cdef Port sender, receiver
        cdef VirtioPort side
        cdef GuestMemory memory
        cdef bint others_wait, waited, receives
        cdef uint64_t start, ns = 0
        sender, receiver = self.ports_at(i)
        if sender is None and receiver is None:
            return []
        with nogil:
            others_wait = touch_own(&self.toucher, PAGE)
        if others_wait or not waits_in_kernel(one.stat_fd) or not is_still_there(one):
            return []
        if not one.place.delivers or (one.place.copying == 0 and isinstance(receiver, VirtioPort)):
            ns = ns_held(one)
            return self.charged(i, receiver if one.place.delivers else sender, ns)
        for port in (sender, receiver):
            if not isinstance(port, VirtioPort):
                continue
            side = port
            memory = side.memory  # a reference: a change may be about to replace it
            if memory is None:
                continue
            receives = port is receiver
            collect(self.pages, one, &memory.table, receives)
            with nogil:
                start = monotonic_ns()
                waited = touch_pages(&self.toucher, self.pages.at, self.pages.n)
                ns = monotonic_ns() - start
            if waited:
                return self.charged(i, port, ns)
            if not is_still_there(one):
                return []
        return []

    cdef list charged(self, uint32_t i, Port port, uint64_t ns):
        cdef Watched *one = &self.watched[i]
        one.charged = one.roster.read_ticks()
        if not isinstance(port, VirtioPort):
            return []
        name = (<Worker>self.workers[i]).name
        return [Hold(name, port.name, ns / 1e9, one.place.since)]

    cdef tuple ports_at(self, uint32_t i):
        """The ports that send and receive where the worker is; None: neither. It has that lane no more, say."""
        cdef const Place *place = &self.watched[i].place
        cdef Wire wire
        for wire in self.wires[i]:
            if wire.lanes <= place.lane < wire.lanes + wire.n_lanes:
                return wire.ingress, receiver_of(wire, place)
        if place.delivers and place.lane == &(<Worker>self.workers[i]).draining:    # a backlog: nobody sends
            for wire in self.wires[i]:
                if wire.bridge is not None:
                    return None, wire.bridge.owner(place.at.egress)
        return None, None


cdef Port receiver_of(Wire wire, const Place *place):
    """The port that the worker delivers to; None: it does not, or to nobody."""
    if wire.bridge is None or not place.delivers:
        return wire.egress
    return wire.bridge.owner(place.at.egress)


cdef Place place_of(const Watched *one) noexcept nogil:
    cdef Place place
    place.lane, place.since = one.roster.at, one.roster.now
    # While a frame is delivered that has to be cut, its headers are read. That touches the sender's memory alone.
    place.at = NULL
    if place.lane != NULL:
        place.at = place.lane.at
    place.delivers = place.at != NULL and not load_acquire_u32(&place.lane.super.reading)
    place.copying, place.alone = one.scratch.copying, one.scratch.alone
    place.chain, place.n_chains = one.scratch.chain, one.scratch.n_chains
    return place


cdef bint is_still_there(const Watched *one) noexcept nogil:
    cdef Place now
    full_fence()  # what is read now is not older than what was read before
    now = place_of(one)
    return (
        now.lane == one.place.lane and now.since == one.place.since and now.at == one.place.at
        and now.delivers == one.place.delivers
        and now.copying == one.place.copying and now.alone == one.place.alone
    )


cdef bint knows(Watched *one) noexcept nogil:
    """Whether it runs, and the file with its thread's state is open."""
    if one.known_thread != one.thread[0]:
        if one.stat_fd >= 0:
            close(one.stat_fd)
        one.known_thread = one.thread[0]
        one.stat_fd = open_thread_stat(one.known_thread) if one.known_thread else -1
    return one.stat_fd >= 0


cdef bint is_held(Watched *one) noexcept nogil:
    """Whether its visit takes long, and it sleeps in the kernel."""
    cdef bint known = knows(one)
    one.place = place_of(one)
    if one.place.lane == NULL or not known:
        return False
    if one.roster.read_ticks() - one.place.since < one.roster.most // MOST_US * YOUNG_US:
        return False
    return waits_in_kernel(one.stat_fd) and is_still_there(one)


cdef uint64_t ns_held(const Watched *one) noexcept nogil:
    """The nanoseconds of its visit that were not charged yet."""
    cdef uint64_t since = max(one.place.since, one.charged), now = one.roster.read_ticks()
    return <uint64_t>(<double>(now - since) / <double>one.roster.most * (MOST_US * 1000)) if now > since else 0


cdef void collect(Pages *pages, const Watched *one, const RegionTable *table, bint receiver) noexcept nogil:
    """Collect the pages of this memory that the copy reads, or (receiver) that it writes.

    The worker may go on meanwhile and overwrite what is looked at here: only what lies in this memory counts.
    """
    cdef const Lane *lane = one.place.lane
    cdef const Delivery *delivery = lane.delivering
    cdef uint32_t first = 0, n = one.place.copying, i, room
    cdef uint64_t bytes = 0
    cdef const Chain *frames
    cdef const Segment *segments
    pages.n = 0
    if delivery == NULL:
        return
    frames, segments = delivery.frames, delivery.segments
    if n and lane.super.begun:  # pieces of one
        frames, segments = &lane.cutter.burst.frames[0], lane.cutter.burst.segments
    room = room_of(lane, frames)
    if one.place.alone != NULL:
        first = <uint32_t>min(<uint64_t>(one.place.alone - frames), <uint64_t>room)
    elif n == 0:                # an egress that is no guest
        n = delivery.n
    n = min(n, room - first)
    for i in range(first, first + n):
        bytes = max(bytes, <uint64_t>frames[i].bytes)
        if not receiver:
            add_chain(pages, table, &frames[i], segments, frames[i].bytes)
    if receiver:
        i = min(one.place.chain if one.place.alone != NULL else 0, <uint32_t>MAX_RECEIVE_CHAINS)
        n = min(one.place.n_chains if one.place.alone != NULL else n, MAX_RECEIVE_CHAINS - i)
        for i in range(i, i + n):
            add_chain(pages, table, &one.scratch.chains[i], one.scratch.segments, bytes + NET_HDR_BYTES)


cdef uint32_t room_of(const Lane *lane, const Chain *frames) noexcept nogil:
    """How many frames there can be from here on; 0: frames are nowhere here."""
    cdef const Chain *rows[6]
    cdef uint32_t i, n = 1
    rows[0] = &lane.burst.frames[0]
    if lane.cutter != NULL:
        rows[n] = &lane.cutter.burst.frames[0]
        n += 1
    if lane.backlogs != NULL:
        rows[n] = &lane.backlogs.frames[0]
        n += 1
    if lane.learner != NULL:
        rows[n], rows[n + 1] = &lane.learner.sorted_frames[0], &lane.learner.splicer.frames[0]
        rows[n + 2] = &lane.learner.vlans.frames[0]
        n += 3
    for i in range(n):
        if rows[i] <= frames < rows[i] + BURST:
            return <uint32_t>(rows[i] + BURST - frames)
    return 0


cdef void add_chain(
    Pages *pages, const RegionTable *table, const Chain *chain, const Segment *segments, uint64_t bytes
) noexcept nogil:
    """Add the pages of the first `bytes` bytes of a chain."""
    cdef uint32_t i, first = chain.first_segment, n = chain.n_segments
    cdef uint64_t piece
    if n == 1:
        add_range(pages, table, chain.data, min(bytes, <uint64_t>chain.bytes))
        return
    if first > <uint32_t>MAX_SEGMENTS or n > <uint32_t>MAX_SEGMENTS - first:
        return
    for i in range(first, first + n):
        piece = min(bytes, <uint64_t>segments[i].bytes)
        add_range(pages, table, segments[i].data, piece)
        bytes -= piece


cdef void add_range(Pages *pages, const RegionTable *table, uint8_t *data, uint64_t bytes) noexcept nogil:
    cdef uint64_t at = <uint64_t>data & ~<uint64_t>(PAGE - 1), end = <uint64_t>data + bytes
    if bytes == 0 or not holds_host(table, data, bytes):
        return
    while at < end and pages.n < <uint32_t>MOST_PAGES:
        if pages.n == 0 or pages.at[pages.n - 1] != <uint8_t *>at:
            pages.at[pages.n] = <uint8_t *>at
            pages.n += 1
        at += PAGE
