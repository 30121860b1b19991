"""A tap interface: frames to and from this host's network stack. Linux, Documentation/networking/tuntap.rst.

A frame that the stack sends is read into the port's own room, one that it gets is written from where it lies in the
guest's memory: either way the forwarder adds no copy of its own. Offloads are off, so a frame has no header in front.
"""

from libc.errno cimport EAGAIN, EFAULT, EIO, errno
from libc.stdint cimport uint32_t

from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport LINK_DOWN, RUNT
from fastvhost.dataplane.frame cimport BURST, FrameBurst, Frame, Segment, copy_frame
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ports.host_port cimport (
    ARENA_BYTES,
    FRAME_ROOM,
    HostFile,
    HostFiles,
    HostPort,
    HostQueue,
    HostPortState,
    add_frame,
    list_pieces,
    report_error,
    report_first_frame,
    writev,
)
from fastvhost.dataplane.tally cimport Tally, count_drops

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    /* One call a frame: the C library's own read and write also arrange for the thread to be cancelled in them. */
    static inline ssize_t read_frame(int fd, void *to, size_t bytes) { return syscall(SYS_read, fd, to, bytes); }
    static inline ssize_t send_frame(int fd, const void *from, size_t n) { return syscall(SYS_write, fd, from, n); }
    """
    ssize_t read_frame(int fd, void *to, size_t bytes)
    ssize_t send_frame(int fd, const void *source, size_t bytes)


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef Tally *tally = &port.rx[pair]
    cdef uint32_t n = 0, at = 0
    cdef ssize_t got
    if queue.fd < 0:
        return 0
    while n < BURST and at <= ARENA_BYTES - FRAME_ROOM:
        got = read_frame(queue.fd, queue.arena + at, FRAME_ROOM)
        if got <= 0:    # 0: the end of a file, which no tap has
            if got < 0 and errno != EAGAIN:
                report_error(side, errno)
            break
        if got < ETHER_HEADER_BYTES:
            count_drops(tally, RUNT, 1)
            continue
        add_frame(burst, n, queue.arena + at, <uint32_t>got)
        tally.bytes += got
        at += (<uint32_t>got + 63) & ~63
        n += 1
    if n:
        tally.frames += n
        if not side.seen_frame:
            report_first_frame(side)
    burst.n_frames = n
    return n


cdef uint32_t deliver_burst(
    PortOps *port, uint32_t pair, const Frame *frames, const Segment *segments, uint32_t n
) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef Tally *tally = &port.tx[pair]
    cdef uint32_t i
    cdef int error
    if queue.fd < 0 or not side.link_up:
        count_drops(tally, LINK_DOWN, n)
        return n
    for i in range(n):
        error = write_frame(queue, &frames[i], segments)
        if error == EAGAIN:
            return i
        if error:
            # EIO: the interface is down; EBADFD: it is gone. Control looks, and tells.
            report_error(side, error)
            count_drops(tally, LINK_DOWN, 1)
            continue
        tally.frames += 1
        tally.bytes += frames[i].bytes
    return n


cdef int write_frame(HostQueue *queue, const Frame *frame, const Segment *segments) noexcept nogil:
    """0, or an errno."""
    cdef ssize_t written
    if frame.n_segments == 1:
        written = send_frame(queue.fd, frame.data, frame.bytes)
    else:
        written = writev(queue.fd, queue.parts, list_pieces(queue, frame, segments, queue.parts))
    if written < 0 and errno == EFAULT:
        copy_frame(queue.bounce, frame, segments)
        written = send_frame(queue.fd, queue.bounce, frame.bytes)
    if written >= 0:
        return 0
    return errno if errno else EIO


cdef class TapPort(HostPort):
    """Reads and writes the file descriptors of a tap interface, one a queue, without offloads."""

    def __init__(self, str name, Door door not None, uint32_t queues=1) -> None:
        self.make(name, door, queues)
        self.ops.receive_burst = receive_burst
        self.ops.deliver_burst = deliver_burst

    def attach(self, fds) -> None:
        cdef HostFiles files = HostFiles()
        cdef uint32_t i
        cdef int number
        numbers = []
        for number in fds:
            numbers.append(number)
        if len(numbers) != self.ops.n_pairs or not numbers:
            raise ValueError(f"port {self.name}: {len(numbers)} file descriptors for {self.ops.n_pairs} queues")
        files.make_room(self.ops.n_pairs)
        for i in range(files.n):
            files.files[i] = HostFile(numbers[i], NULL)
        self.swap(files)
        self.end_setter()
