"""A tap interface: frames to and from this host's network stack. Linux, Documentation/networking/tuntap.rst.

A frame that the stack sends is read into memory of the port. A frame to the stack is written from where it lies in the
guest's memory, without another copy. A virtio-net header of twelve bytes precedes each frame (IFF_VNET_HDR), so that
what a stack or a guest leaves to its card is passed on as it is.
"""

from libc.errno cimport EAGAIN, EFAULT, EINVAL, EIO, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES, NET_HDR_BYTES
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport GSO_UNSUPPORTED, LINK_DOWN, RUNT
from fastvhost.dataplane.frame cimport BURST, NEED_USO, Delivery, FrameBurst, Frame, copy_frame
from fastvhost.dataplane.offload.header cimport HOST_NEEDS, give_host_head, next_head
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
    look_at_once,
    may_look,
    iovec,
    report_error,
    report_first_frame,
    writev,
)
from fastvhost.dataplane.tally cimport Tally, count_drops

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    /* Called for each frame. The C library's read() is also a cancellation point, which costs instructions. */
    static inline ssize_t read_frame(int fd, void *to, size_t bytes) { return syscall(SYS_read, fd, to, bytes); }
    """
    ssize_t read_frame(int fd, void *to, size_t bytes)


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef Tally *tally = &port.rx[pair]
    cdef uint32_t n = 0, at = 0
    cdef ssize_t got
    if queue.fd < 0:
        return 0
    burst.n_heads = burst.needs = 0
    while n < BURST and at <= ARENA_BYTES - (NET_HDR_BYTES + FRAME_ROOM):
        got = read_frame(queue.fd, queue.arena + at, NET_HDR_BYTES + FRAME_ROOM)
        if got <= 0:    # 0: the end of a file, which no tap has
            if got < 0 and errno != EAGAIN:
                report_error(side, errno)
            break
        if got < NET_HDR_BYTES + ETHER_HEADER_BYTES:
            count_drops(tally, RUNT, 1)
            continue
        add_frame(burst, n, queue.arena + at + NET_HDR_BYTES, <uint32_t>got - NET_HDR_BYTES)
        memcpy(&next_head(burst).net, queue.arena + at, NET_HDR_BYTES)
        if not give_host_head(burst, &burst.frames[n], burst.frames[n].bytes):
            count_drops(tally, GSO_UNSUPPORTED, 1)
            continue
        tally.bytes += burst.frames[n].bytes
        at += (<uint32_t>got + 63) & ~63
        n += 1
    if n:
        tally.frames += n
        queue.quiet_since = 0
        if not side.seen_frame:
            report_first_frame(side)
    burst.n_frames = n
    return n


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef Tally *tally = &port.tx[pair]
    cdef const Frame *frames = delivery.frames
    cdef uint32_t i, n = delivery.n
    cdef int error
    if queue.fd < 0 or not side.link_up:
        count_drops(tally, LINK_DOWN, n)
        return n
    for i in range(n):
        error = write_frame(queue, delivery, &frames[i])
        if error == EAGAIN:
            return i
        if error == EINVAL and frames[i].head:
            count_drops(tally, GSO_UNSUPPORTED, 1)
            continue
        if error:
            # EIO: the interface is down; EBADFD: it is gone. The control thread finds out, and logs it.
            report_error(side, error)
            count_drops(tally, LINK_DOWN, 1)
            continue
        tally.frames += 1
        tally.bytes += frames[i].bytes
    return n


cdef int write_frame(HostQueue *queue, const Delivery *delivery, const Frame *frame) noexcept nogil:
    """0, or an errno."""
    cdef iovec *parts = queue.parts
    cdef ssize_t written
    parts[0] = iovec(<void *>&delivery.heads[frame.head].net, NET_HDR_BYTES)
    written = writev(queue.fd, parts, 1 + list_pieces(queue, delivery, frame, &parts[1]))
    if written < 0 and errno == EFAULT:
        copy_frame(queue.bounce, frame, delivery.segments)
        parts[1] = iovec(queue.bounce, frame.bytes)
        written = writev(queue.fd, parts, 2)
    if written >= 0:
        return 0
    return errno if errno else EIO


cdef class TapPort(HostPort):
    """Reads and writes the file descriptors of a tap interface, one a queue."""

    def __init__(self, str name, Door door not None, uint32_t queues=1) -> None:
        self.make(name, door, queues)
        self.ops.receive_burst = receive_burst
        self.ops.deliver_burst = deliver_burst
        self.ops.may_receive, self.ops.want_kicks = may_look, look_at_once

    def attach(self, fds, *, bint udp_segments=False) -> None:
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
        self.plan().accepts = HOST_NEEDS | (NEED_USO if udp_segments else 0)
        self.swap(files)
        self.end_setter()
