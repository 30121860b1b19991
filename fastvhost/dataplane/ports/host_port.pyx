"""Ports towards this host: the control side that their kinds share, and what their workers need beyond one burst."""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.unistd cimport close, write

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32
from fastvhost.dataplane.door cimport Door, drain_eventfd
from fastvhost.dataplane.frame cimport Frame, Segment, copy_frame
from fastvhost.dataplane.port cimport NOTHING_TO_WAIT_FOR, Port, PortFace


# A worker that is later keeps the port waiting: whoever changes it tries again.
cdef enum:
    PATIENCE_MS = 500


cdef void wake_control(HostSide *side) noexcept nogil:
    cdef uint64_t one = 1
    write(side.attention_fd, &one, sizeof(one))  # full: it will be read anyway


cdef void report_error(HostSide *side, int error) noexcept nogil:
    """Tell control of a call that failed, once until it has looked."""
    if not side.found_error:
        store_release_u32(&side.found_error, error)  # pairs with HostPort.events
        wake_control(side)


cdef void report_first_frame(HostSide *side) noexcept nogil:
    side.seen_frame = True
    store_release_u32(&side.found_first_frame, 1)  # pairs with HostPort.events
    wake_control(side)


cdef uint32_t gather(HostQueue *queue, const Frame *frame, const Segment *segments, iovec *parts) noexcept nogil:
    """A frame in pieces as the kernel wants them; in more pieces than it takes, by way of the bounce buffer."""
    cdef uint32_t i
    if frame.n_segments > MOST_PARTS:
        copy_frame(queue.bounce, frame, segments)
        parts[0] = iovec(queue.bounce, frame.bytes)
        return 1
    for i in range(frame.n_segments):
        parts[i] = iovec(segments[frame.first_segment + i].data, segments[frame.first_segment + i].bytes)
    return frame.n_segments


cdef int host_wait_fd(PortFace *port, uint32_t pair, bint *kicked) noexcept nogil:
    """Readable while frames wait: poll() looks again by itself, so nothing is lost between looking and sleeping."""
    cdef int fd = (<HostSide *>port.kind).queues[pair].fd
    return NOTHING_TO_WAIT_FOR if fd < 0 else fd


cdef class HostPort(Port):
    """A port whose other end is this host. Made by its kinds."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.attention_fd = -1
        self.use_door(Door())  # nobody's, until make()
        self.side = <HostSide *>calloc(1, sizeof(HostSide))
        if self.side == NULL:
            raise MemoryError
        self.side.attention_fd = -1

    cdef int let_go(self) except -1:
        """No worker uses what attach() was given any more. A kind that keeps hold of it meanwhile lets go here."""
        return 0

    cdef int make(self, str name, str kind, Door door, uint32_t n_pairs) except -1:
        """What every kind's constructor begins with."""
        cdef uint32_t i
        cdef HostQueue *queue
        if not 1 <= n_pairs <= 128:
            raise ValueError(f"port {name}: {n_pairs} queues; 1 to 128 are possible")
        self.allot(n_pairs)
        self.name, self.kind = name, kind
        self.use_door(door)
        self.side.queues = <HostQueue *>calloc(n_pairs, sizeof(HostQueue))
        if self.side.queues == NULL:
            raise MemoryError
        for i in range(n_pairs):
            queue = &self.side.queues[i]
            queue.fd = -1
            queue.arena = <uint8_t *>malloc(ARENA_BYTES)
            queue.parts = <iovec *>malloc(MOST_PARTS * sizeof(iovec))
            queue.bounce = <uint8_t *>malloc(FRAME_ROOM)
            if queue.arena == NULL or queue.parts == NULL or queue.bounce == NULL:
                raise MemoryError
        self.attention_fd = self.side.attention_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.face.kind = self.side
        self.face.wait_fd = host_wait_fd
        self.face.active_pairs = n_pairs
        return 0

    cdef int shut(self) except -1:
        """Workers of this port stand still from here to entrance.open(). Raises WorkerStuckError, then they do not."""
        return self.entrance.shut(<uint64_t>PATIENCE_MS * 1000000)

    def __dealloc__(self) -> None:
        cdef uint32_t i
        if self.side != NULL:
            for i in range(self.face.n_pairs if self.side.queues != NULL else 0):
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
        if self.side.link_up != up:
            self.shut()
            self.side.link_up = up
            self.entrance.open()

    def detach(self) -> None:
        cdef uint32_t i
        self.shut()
        for i in range(self.face.n_pairs if self.side.queues != NULL else 0):
            self.side.queues[i].fd = -1
        self.side.link_up = False
        if self.lends:
            self.face.epoch += 1
        self.entrance.open()
        self.let_go()

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
