"""An interface of this host through AF_XDP: frames before the host's stack sees them. Linux, af_xdp.rst.

A frame that arrives stays in its chunk until the egress has copied it; then the chunk goes back to the kernel by the
fill ring: one copy, as from a guest. A frame that leaves is copied into a chunk, which comes back by the completion
ring. Whether the kernel itself copies between chunks and its own buffers depends on the driver. AF_XDP does not say
what a frame leaves to the card. So frames that leave are finished in their copy, and unfinished checksums of frames
that arrive are recognised by their values.
"""

from libc.errno cimport EAGAIN, EBUSY, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32, store_release_u32
from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport KERNEL_OVERRUN, LINK_DOWN, OVERSIZE, RUNT
from fastvhost.dataplane.frame cimport BURST, Delivery, FrameBurst, Chain, Done, Frame
from fastvhost.dataplane.offload.finish cimport copy_finished
from fastvhost.dataplane.offload.unfinished cimport look_for_unfinished
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ports.host_port cimport (
    HostChange,
    HostFile,
    HostFiles,
    HostPort,
    HostQueue,
    HostPortState,
    report_error,
    report_first_frame,
)
from fastvhost.dataplane.ports.xdp_socket cimport (
    CHUNK_BYTES,
    RECEIVE_CHUNKS,
    SEND_CHUNKS,
    KernelRing,
    XdpSocket,
)
from fastvhost.dataplane.tally cimport Tally, count_drops

cdef extern from "<linux/if_xdp.h>" nogil:
    struct xdp_desc:
        uint64_t addr
        uint32_t len
        uint32_t options
    const uint32_t XDP_RING_NEED_WAKEUP

cdef extern from "<sys/socket.h>" nogil:
    ssize_t sendto(int fd, const void *data, size_t bytes, int flags, const void *address, unsigned int address_bytes)
    ssize_t recvfrom(int fd, void *data, size_t bytes, int flags, void *address, void *address_bytes)
    const int MSG_DONTWAIT


cdef struct XdpQueue:
    # set through the door
    uint8_t *memory
    KernelRing fill
    KernelRing completion
    KernelRing received
    KernelRing transmit
    # written by the worker that reads
    uint32_t next_received
    uint32_t next_fill
    # written by the worker that writes
    uint32_t next_completion
    uint32_t next_transmit
    uint32_t stuck           # the kernel has not taken all of the transmit ring; the worker that reads calls it again
    uint32_t n_free
    uint32_t free_chunks[SEND_CHUNKS]


cdef inline void return_chunk(XdpQueue *xdp, uint32_t chunk) noexcept nogil:
    """Put a chunk into the fill ring, which has room for all chunks. The caller publishes."""
    (<uint64_t *>xdp.fill.entries)[xdp.next_fill & xdp.fill.mask] = <uint64_t>chunk * CHUNK_BYTES
    xdp.next_fill += 1


cdef inline bint wants_call(const KernelRing *ring) noexcept nogil:
    return load_acquire_u32(ring.flags) & XDP_RING_NEED_WAKEUP


cdef bint is_there(HostQueue *queue) noexcept nogil:
    """Whether frames arrived. Also calls the kernel where that waits for a call, to send or to receive."""
    cdef XdpQueue *xdp = <XdpQueue *>queue.handle
    if load_acquire_u32(&xdp.stuck) and wants_call(&xdp.transmit):
        sendto(queue.fd, NULL, 0, MSG_DONTWAIT, NULL, 0)
        if load_acquire_u32(xdp.transmit.consumer) == load_acquire_u32(xdp.transmit.producer):
            store_release_u32(&xdp.stuck, 0)
    if load_acquire_u32(xdp.received.producer) != xdp.next_received:
        return True
    if wants_call(&xdp.fill):
        recvfrom(queue.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)
    return False


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef XdpQueue *xdp = <XdpQueue *>queue.handle
    cdef Tally *tally = &port.rx[pair]
    cdef uint32_t n = 0, there, returned
    cdef uint64_t bytes = 0
    cdef xdp_desc found
    if queue.fd < 0 or not is_there(queue):
        return 0
    burst.n_heads = burst.needs = 0
    returned = xdp.next_fill
    there = load_acquire_u32(xdp.received.producer) - xdp.next_received  # pairs with the kernel's store
    for _ in range(min(there, <uint32_t>BURST)):
        found = (<xdp_desc *>xdp.received.entries)[xdp.next_received & xdp.received.mask]
        xdp.next_received += 1
        if found.len < ETHER_HEADER_BYTES or found.len > side.longest:
            count_drops(tally, RUNT if found.len < ETHER_HEADER_BYTES else OVERSIZE, 1)
            return_chunk(xdp, <uint32_t>(found.addr // CHUNK_BYTES))
            continue
        burst.frames[n] = Chain(
            data=xdp.memory + found.addr, bytes=found.len, ticket=<uint32_t>(found.addr // CHUNK_BYTES),
            first_segment=0, n_segments=1, head=0,
        )
        look_for_unfinished(burst, &burst.frames[n])
        burst.done[n] = Done(<uint32_t>(found.addr // CHUNK_BYTES), 0)
        bytes += found.len
        n += 1
    store_release_u32(xdp.received.consumer, xdp.next_received)
    if xdp.next_fill != returned:
        store_release_u32(xdp.fill.producer, xdp.next_fill)
    tally.frames += n
    tally.bytes += bytes
    if n and not side.seen_frame:
        report_first_frame(side)
    burst.n_frames = n
    return n


cdef void release_burst(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    cdef HostQueue *queue = &(<HostPortState *>port.state).queues[pair]
    cdef XdpQueue *xdp = <XdpQueue *>queue.handle
    cdef uint32_t i
    if queue.fd < 0:
        return
    for i in range(n):
        return_chunk(xdp, done[i].ticket)
    store_release_u32(xdp.fill.producer, xdp.next_fill)  # pairs with the kernel taking chunks to write to


cdef bint may_receive(PortOps *port, uint32_t pair) noexcept nogil:
    cdef HostQueue *queue = &(<HostPortState *>port.state).queues[pair]
    return queue.fd >= 0 and is_there(queue)


cdef bint has_silent_work(PortOps *port, uint32_t pair) noexcept nogil:
    """Whether the kernel has frames to send and waits for a call. Frames that arrive wake a worker by wait_fd."""
    cdef HostQueue *queue = &(<HostPortState *>port.state).queues[pair]
    cdef XdpQueue *xdp = <XdpQueue *>queue.handle
    return queue.fd >= 0 and load_acquire_u32(&xdp.stuck) and wants_call(&xdp.transmit)


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef XdpQueue *xdp = <XdpQueue *>queue.handle
    cdef Tally *tally = &port.tx[pair]
    cdef const Frame *frames = delivery.frames
    cdef uint32_t i, chunk, n = delivery.n, done = delivery.n
    if queue.fd < 0 or not side.link_up:
        count_drops(tally, LINK_DOWN, n)
        return n
    if xdp.n_free < n:
        reclaim_chunks(xdp)
    for i in range(n):
        if frames[i].bytes > side.longest:
            count_drops(tally, OVERSIZE, 1)
            continue
        if xdp.n_free == 0:
            done = i
            break
        xdp.n_free -= 1
        chunk = xdp.free_chunks[xdp.n_free]
        copy_finished(xdp.memory + <size_t>chunk * CHUNK_BYTES, delivery, &frames[i])
        (<xdp_desc *>xdp.transmit.entries)[xdp.next_transmit & xdp.transmit.mask] = xdp_desc(
            <uint64_t>chunk * CHUNK_BYTES, frames[i].bytes, 0
        )
        xdp.next_transmit += 1
        tally.frames += 1
        tally.bytes += frames[i].bytes
    store_release_u32(xdp.transmit.producer, xdp.next_transmit)  # pairs with the kernel reading entries
    send_off(side, queue, tally)
    return done


cdef void reclaim_chunks(XdpQueue *xdp) noexcept nogil:
    """Take back the chunks of frames that were sent."""
    cdef uint32_t until = load_acquire_u32(xdp.completion.producer)  # pairs with the kernel's store
    cdef uint64_t *chunks = <uint64_t *>xdp.completion.entries
    while xdp.next_completion != until:
        xdp.free_chunks[xdp.n_free] = <uint32_t>(chunks[xdp.next_completion & xdp.completion.mask] // CHUNK_BYTES)
        xdp.n_free += 1
        xdp.next_completion += 1
    store_release_u32(xdp.completion.consumer, until)


cdef void send_off(HostPortState *side, HostQueue *queue, Tally *tally) noexcept nogil:
    """Call the kernel until it has taken all of the transmit ring, or takes no more of it."""
    cdef XdpQueue *xdp = <XdpQueue *>queue.handle
    cdef uint32_t before, now
    full_fence()  # publish entries, then look whether the kernel sleeps; pairs with its fence, between sleep and look
    now = load_acquire_u32(xdp.transmit.consumer)
    while now != xdp.next_transmit and wants_call(&xdp.transmit):
        before = now
        if sendto(queue.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0:
            if errno == EBUSY:
                refused(xdp, tally)
            elif errno != EAGAIN and errno != ENOBUFS:
                report_error(side, errno)
        now = load_acquire_u32(xdp.transmit.consumer)
        if now == before:
            break
    store_release_u32(&xdp.stuck, now != xdp.next_transmit)


cdef void refused(XdpQueue *xdp, Tally *tally) noexcept nogil:
    """Count the frame that the kernel took last as dropped: the interface's queue had no room for it."""
    cdef uint32_t last = load_acquire_u32(xdp.transmit.consumer) - 1
    tally.frames -= 1
    tally.bytes -= (<xdp_desc *>xdp.transmit.entries)[last & xdp.transmit.mask].len
    count_drops(tally, KERNEL_OVERRUN, 1)


cdef class XdpFiles(HostFiles):
    """A new socket for each queue, and the port's positions in their rings."""

    cdef XdpQueue *queues
    cdef tuple sockets

    cdef int hold(self, tuple sockets) except -1:
        cdef XdpSocket socket
        cdef XdpQueue *xdp
        cdef uint32_t i, k
        self.make_room(<uint32_t>len(sockets))
        self.queues = <XdpQueue *>calloc(len(sockets), sizeof(XdpQueue))
        if self.queues == NULL:
            raise MemoryError
        self.sockets = sockets
        for i in range(self.n):
            socket = sockets[i]
            socket.used = socket.in_use = True
            xdp = &self.queues[i]
            xdp.memory, xdp.transmit = socket.memory, socket.transmit
            xdp.fill, xdp.completion, xdp.received = socket.fill, socket.completion, socket.received
            xdp.next_fill = RECEIVE_CHUNKS  # the socket was made with all of them in the fill ring
            xdp.n_free = SEND_CHUNKS
            for k in range(<uint32_t>SEND_CHUNKS):
                xdp.free_chunks[k] = RECEIVE_CHUNKS + k
            self.files[i] = HostFile(socket.fd, xdp)
        return 0

    cdef void let_go(self) noexcept:
        cdef XdpSocket socket
        sockets, self.sockets = self.sockets, None
        for socket in sockets or ():
            socket.in_use = False
            socket.used = self.served  # its rings are not where they start any more
            if socket.closing:
                socket.let_go()

    def __dealloc__(self) -> None:
        self.let_go()
        free(self.queues)


cdef class XdpPort(HostPort):
    """Frames stay in memory shared with the kernel until the egress has copied them: one socket a queue pair."""

    def __init__(self, str name, Door door not None, uint32_t queue_pairs=1) -> None:
        self.make(name, door, queue_pairs)
        self.next.lends = True
        self.ops.receive_burst, self.ops.deliver_burst = receive_burst, deliver_burst
        self.ops.release_burst, self.ops.may_receive = release_burst, may_receive
        self.ops.has_silent_work = has_silent_work

    def attach(self, sockets, uint32_t longest) -> None:
        cdef XdpSocket socket
        cdef XdpFiles files = XdpFiles()
        cdef tuple given = tuple(sockets)
        own = len(set(map(id, given)))
        if len(given) != self.ops.n_pairs or not given or own < len(given):
            raise ValueError(f"port {self.name}: {len(given)} sockets for {self.ops.n_pairs} queues; one for each")
        for socket in given:
            if socket is None:
                raise TypeError(f"port {self.name}: None is no AF_XDP socket")
            if socket.fd < 0 or socket.closing or socket.used:
                raise ValueError(f"port {self.name}: a socket is closed, or was used before; open a new one")
        files.hold(given)
        self.swap(files)
        self.next.longest = min(longest, <uint32_t>CHUNK_BYTES)
        self.end_setter()

    def set_longest(self, uint32_t frame_bytes) -> None:
        cdef HostChange *next = self.plan()
        cdef uint32_t longest = min(frame_bytes, <uint32_t>CHUNK_BYTES)
        if next.longest != longest:
            next.longest, next.touched = longest, True
        self.end_setter()
