"""Ports towards this host: the control side that their kinds share, and what their workers need beyond one burst."""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32
from fastvhost.dataplane.changing_port cimport ChangingPort
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.eventfd cimport drain_eventfd, wake_eventfd
from fastvhost.dataplane.frame cimport Delivery, Frame, Segment, copy_frame
from fastvhost.dataplane.port cimport NOTHING_TO_WAIT_FOR, Port, PortOps


cdef enum:
    # A queue that had no frame for a time is read again after an eighth of that, or after this many ns. A read is a
    # system call, and takes as long as a dozen short frames.
    MOST_PAUSE_NS = 50 * 1000
    PAUSE_SHIFT = 3

# Seconds that a setter outside of a change waits for a worker. After that it raises, and its caller tries again.
cdef double MAX_WAIT = 0.5


cdef void report_error(HostPortState *side, int error) noexcept nogil:
    """Tell control of a call that failed. Others that fail before control has looked are not told."""
    if not side.found_error:
        store_release_u32(&side.found_error, error)  # pairs with HostPort.events
        wake_eventfd(side.attention_fd)


cdef void report_first_frame(HostPortState *side) noexcept nogil:
    side.seen_frame = True
    store_release_u32(&side.found_first_frame, 1)  # pairs with HostPort.events
    wake_eventfd(side.attention_fd)


cdef uint32_t list_pieces(HostQueue *queue, const Delivery *delivery, const Frame *frame, iovec *parts) noexcept nogil:
    """List a frame's pieces for the kernel. One of more pieces than the kernel takes is copied to the bounce buffer."""
    cdef const Segment *segments = delivery.segments
    cdef uint32_t i
    if frame.n_segments == 1:
        parts[0] = iovec(frame.data, frame.bytes)
        return 1
    if frame.n_segments > MOST_PARTS:
        copy_frame(queue.bounce, frame, segments)
        parts[0] = iovec(queue.bounce, frame.bytes)
        return 1
    for i in range(frame.n_segments):
        parts[i] = iovec(segments[frame.first_segment + i].data, segments[frame.first_segment + i].bytes)
    return frame.n_segments


cdef int host_wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil:
    """A descriptor that is readable while frames wait: also for those that came before the sleep, so none is missed."""
    cdef int fd = (<HostPortState *>port.state).queues[pair].fd
    return NOTHING_TO_WAIT_FOR if fd < 0 else fd


cdef bint may_look(PortOps *port, uint32_t pair) noexcept nogil:
    """may_receive of a kind whose every look at a queue is a system call: whether it is time for one.

    Asked of quiet lanes only (roster); one that has frames is read without asking.
    """
    cdef HostQueue *queue = &(<HostPortState *>port.state).queues[pair]
    cdef uint64_t now
    if queue.fd < 0:
        return False
    now = monotonic_ns()
    if queue.quiet_since == 0:
        queue.quiet_since = queue.look_at = now
    if now < queue.look_at:
        return False
    queue.look_at = now + min(<uint64_t>MOST_PAUSE_NS, (now - queue.quiet_since) >> PAUSE_SHIFT)
    return True


cdef void look_at_once(PortOps *port, uint32_t pair, bint wanted) noexcept nogil:
    """want_kicks of such a kind: a worker that slept was perhaps woken by this queue."""
    if not wanted:
        (<HostPortState *>port.state).queues[pair].look_at = 0


cdef void commit_host_change(void *written) noexcept nogil:
    """Put a HostChange into effect. Called while all workers that own lanes of this port are at the door."""
    cdef HostChange *change = <HostChange *>written
    cdef HostPortState *side = change.side
    cdef uint32_t i
    if change.swaps:
        for i in range(change.port.n_pairs if side.queues != NULL else 0):
            side.queues[i].fd = -1 if change.files == NULL else change.files[i].fd
            side.queues[i].handle = NULL if change.files == NULL else change.files[i].handle
        change.port.epoch += change.lends  # frames of the files before are gone with them
    side.link_up, side.longest = change.link_up, change.longest
    change.port.accepts = change.accepts


cdef class HostFiles:
    """What attach() gives a port. Kinds that hold references override let_go(), called when no worker uses them."""

    cdef int make_room(self, uint32_t n) except -1:
        self.files = <HostFile *>calloc(n or 1, sizeof(HostFile))
        if self.files == NULL:
            raise MemoryError
        self.n = n
        return 0

    cdef void let_go(self) noexcept:
        pass

    def __dealloc__(self) -> None:
        free(self.files)


cdef class HostPort(ChangingPort):
    """A port whose other end is this host. Made by its kinds."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.attention_fd = -1
        self.side = <HostPortState *>calloc(1, sizeof(HostPortState))
        if self.side == NULL:
            raise MemoryError
        self.side.attention_fd = -1
        self.next.port, self.next.side = &self.ops, self.side
        self.apply, self.written = commit_host_change, &self.next

    cdef int make(self, str name, Door door, uint32_t n_pairs) except -1:
        """What every kind's constructor begins with."""
        cdef uint32_t i
        cdef HostQueue *queue
        if not 1 <= n_pairs <= 128:
            raise ValueError(f"port {name}: {n_pairs} queues; 1 to 128 are possible")
        self.allot(n_pairs)
        self.name = name
        self.use_door(door)
        self.side.queues = <HostQueue *>calloc(n_pairs, sizeof(HostQueue))
        if self.side.queues == NULL:
            raise MemoryError
        for i in range(n_pairs):
            queue = &self.side.queues[i]
            queue.fd = -1
            queue.arena = <uint8_t *>malloc(ARENA_BYTES)
            queue.parts = <iovec *>malloc((1 + MOST_PARTS) * sizeof(iovec))
            queue.bounce = <uint8_t *>malloc(FRAME_ROOM)
            if queue.arena == NULL or queue.parts == NULL or queue.bounce == NULL:
                raise MemoryError
        self.attention_fd = self.side.attention_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ops.state = self.side
        self.ops.wait_fd = host_wait_fd
        self.ops.active_pairs = n_pairs
        return 0

    # Changes: written to `next`, which workers do not see until all of it takes effect

    cdef bint has_plan(self) noexcept:
        return self.next.begun and self.next.touched

    cdef HostChange *plan(self) except NULL:
        self.recall()
        if not self.next.begun:
            self.next.touched = self.next.swaps = False
            self.next.link_up, self.next.longest = self.side.link_up, self.side.longest
            self.next.accepts = self.ops.accepts
            self.next.begun = True
        return &self.next

    cdef int has_changed(self) except -1:
        cdef HostFiles before = self.files
        self.next.begun = False
        if self.next_files is not before:
            self.files = self.next_files
            if self.files is not None:
                self.files.served = True
            if before is not None:
                before.let_go()
        return 0

    cdef int forget(self) except -1:
        cdef HostFiles unused = self.next_files
        self.next.begun = False
        if unused is not self.files:
            self.next_files = self.files
            if unused is not None:
                unused.let_go()
        return 0

    cdef int swap(self, HostFiles files) except -1:
        """Workers are to use these files, or none."""
        cdef HostChange *next = self.plan()
        cdef HostFiles unused = self.next_files
        self.next_files = files
        next.files = NULL if files is None else files.files
        next.swaps = next.touched = True
        if unused is not None and unused is not self.files:
            unused.let_go()  # of the same change
        return 0

    cdef int end_setter(self) except -1:
        if not self.changing:
            self.settle(MAX_WAIT)
        return 0

    def __dealloc__(self) -> None:
        cdef uint32_t i
        if self.side != NULL:
            for i in range(self.ops.n_pairs if self.side.queues != NULL else 0):
                free(self.side.queues[i].arena)
                free(self.side.queues[i].parts)
                free(self.side.queues[i].bounce)
            free(self.side.queues)
            free(self.side)
        if self.attention_fd >= 0:
            close(self.attention_fd)

    @property
    def link_up(self) -> bool:
        return self.side.link_up

    def set_link(self, bint up) -> None:
        cdef HostChange *next = self.plan()
        if next.link_up != up:
            next.link_up, next.touched = up, True
        self.end_setter()

    def detach(self) -> None:
        cdef HostChange *next = self.plan()
        if self.next_files is not None:
            self.swap(None)
        if next.link_up:
            next.link_up, next.touched = False, True
        self.end_setter()

    def events(self) -> list[tuple[str, int]]:
        found = []
        drain_eventfd(self.attention_fd)
        if load_acquire_u32(&self.side.found_first_frame):
            self.side.found_first_frame = 0
            found.append(("first_frame", 0))
        if load_acquire_u32(&self.side.found_error):
            found.append(("error", self.side.found_error))
            self.side.found_error = 0
        return found

    def count_kernel_drops(self, uint64_t frames) -> None:
        self.side.kernel_dropped += frames

    def counters(self) -> object:
        counted = Port.counters(self)
        counted.rx_dropped["kernel_overrun"] += self.side.kernel_dropped
        return counted

    def totals(self) -> tuple[int, int, int, int, int, int]:
        *others, rx_dropped, tx_dropped = Port.totals(self)
        return (*others, rx_dropped + self.side.kernel_dropped, tx_dropped)
