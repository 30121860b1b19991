"""An interface of this host through AF_PACKET: a NIC, a veth, a bridge. packet(7); Linux, packet_mmap.rst.

Frames stay in the ring's blocks until the egress has copied them: one copy, as from a guest. A block goes back to the
kernel once all its frames are released. A burst takes frames from as many blocks as it needs: if it stopped at the end
of a block, a fast sender would fill the ring, and the kernel would drop. What a stack or a guest leaves to its card is
passed on as it is: a virtio-net header in front of each frame says what is missing (PACKET_VNET_HDR).

A complete frame is sent past the interface's queue (PACKET_QDISC_BYPASS). One with something missing goes through the
queue: there the kernel does what the card cannot do, while past the queue such a frame would be lost. A stack leaves
all frames of a flow unfinished, or none: so they go the same way, and stay in order.
"""

from libc.errno cimport EAGAIN, EFAULT, EINVAL, EMSGSIZE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove, memset

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

from fastvhost.abi.shared_memory cimport load_acquire_u16, load_acquire_u32, store_release_u32
from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES, NET_HDR_LEGACY_BYTES, NetHeader
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport BAD_DESCRIPTOR, GSO_UNSUPPORTED, LINK_DOWN, OVERSIZE, RUNT
from fastvhost.dataplane.ether cimport ETHER_ADDRESSES_BYTES, ETHERTYPE_VLAN, VLAN_TAG_BYTES, put16
from fastvhost.dataplane.frame cimport BURST, NEED_TUNNEL, NEED_USO, Delivery, FrameBurst, Frame, Segment, copy_frame
from fastvhost.dataplane.offload.header cimport HOST_NEEDS, give_host_head, next_head
from fastvhost.dataplane.offload.tunnel cimport Tunnel, in_datagram
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ports.host_port cimport (
    FRAME_ROOM,
    HostFile,
    HostFiles,
    HostPort,
    HostQueue,
    HostPortState,
    add_frame,
    iovec,
    report_error,
    report_first_frame,
)
from fastvhost.dataplane.tally cimport Tally, count_drops

cdef extern from "<linux/if_packet.h>" nogil:
    const uint32_t TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID
    struct tpacket_hdr_v1:
        uint32_t block_status
        uint32_t num_pkts
        uint32_t offset_to_first_pkt
    union tpacket_bd_header_u:
        tpacket_hdr_v1 bh1
    struct tpacket_block_desc:
        tpacket_bd_header_u hdr
    struct tpacket_hdr_variant1:
        uint32_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket3_hdr:
        uint32_t tp_next_offset
        uint32_t tp_snaplen
        uint32_t tp_len
        uint32_t tp_status
        uint16_t tp_mac
        tpacket_hdr_variant1 hv1

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    """
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags)
    const int MSG_DONTWAIT

cdef enum:
    FEW_PARTS = 4            # a frame in more pieces is copied to the bounce buffer, and sent alone


cdef struct PacketRing:
    # set through the door
    uint8_t *ring
    uint32_t block_bytes
    uint32_t n_blocks
    int send_fd
    int queue_fd             # for frames with a head
    # written by the worker that reads
    uint32_t block           # the one being read, or the next to be
    bint is_open             # the kernel has handed that block to us
    uint32_t n_held          # blocks that are ours, that one included: their frames may be not released yet
    uint32_t left            # frames in it not looked at yet
    uint8_t *next            # the first of them
    # scratch of the worker that writes
    mmsghdr messages[BURST]
    iovec parts[BURST * (1 + FEW_PARTS)]


cdef inline tpacket_block_desc *block_at(const PacketRing *ring, uint32_t block) noexcept nogil:
    return <tpacket_block_desc *>(ring.ring + <size_t>block * ring.block_bytes)


cdef inline bint is_ready(const PacketRing *ring, uint32_t block) noexcept nogil:
    """Whether the kernel has closed a block, and handed it to us."""
    return load_acquire_u32(&block_at(ring, block).hdr.bh1.block_status) & TP_STATUS_USER  # pairs with the closing


cdef inline void move_on(PacketRing *ring) noexcept nogil:
    ring.block = ring.block + 1 if ring.block + 1 < ring.n_blocks else 0
    ring.is_open = False


cdef bint open_block(PacketRing *ring) noexcept nogil:
    """Go on to the next block, if the kernel has closed it. The one before stays ours: its frames are in the burst."""
    cdef tpacket_block_desc *block
    if ring.is_open:
        move_on(ring)
    if ring.n_held == ring.n_blocks or not is_ready(ring, ring.block):
        return False
    block = block_at(ring, ring.block)
    ring.is_open = True
    ring.n_held += 1
    ring.left = block.hdr.bh1.num_pkts
    ring.next = <uint8_t *>block + block.hdr.bh1.offset_to_first_pkt
    return True


cdef void give_back(PacketRing *ring) noexcept nogil:
    """Give blocks that are read to their end back to the kernel. All frames handed out so far are released."""
    cdef uint32_t oldest
    if ring.is_open and ring.left == 0:
        move_on(ring)
    while ring.n_held > <uint32_t>ring.is_open:
        oldest = ring.block + <uint32_t>ring.is_open + ring.n_blocks - ring.n_held
        oldest = oldest if oldest < ring.n_blocks else oldest - ring.n_blocks
        store_release_u32(&block_at(ring, oldest).hdr.bh1.block_status, TP_STATUS_KERNEL)  # pairs with the kernel's
        ring.n_held -= 1


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef PacketRing *ring = <PacketRing *>queue.handle
    cdef Tally *tally = &port.rx[pair]
    cdef uint32_t n = 0, i
    cdef tpacket3_hdr *packet
    cdef FoundPacket found
    if queue.fd < 0:
        return 0
    if ring.n_held:
        give_back(ring)
    burst.n_heads = burst.needs = 0
    while n < BURST:
        if ring.left == 0:
            if not open_block(ring):
                break
            continue
        packet = <tpacket3_hdr *>ring.next
        if not lies_in_block(ring, packet, &found):
            # No kernel writes this; but the ring is also writable by this process. The rest of the block is lost.
            count_drops(tally, BAD_DESCRIPTOR, ring.left)
            ring.left = 0
            continue
        ring.left -= 1
        ring.next += found.next_offset
        n += take_packet(ring, packet, &found, burst, n, tally)
    for i in range(n):
        tally.bytes += burst.frames[i].bytes
    tally.frames += n
    if n and not side.seen_frame:
        report_first_frame(side)
    burst.n_frames = n
    return n


# Where a frame of the ring lies, each word read once.
cdef struct FoundPacket:
    uint32_t next_offset
    uint32_t bytes
    uint32_t mac


cdef inline bint lies_in_block(const PacketRing *ring, const tpacket3_hdr *packet, FoundPacket *found) noexcept nogil:
    """Whether a frame and its headers lie in the block being read, and the next frame after it. Fills in `found`."""
    cdef size_t at = <size_t>(<const uint8_t *>packet - <const uint8_t *>block_at(ring, ring.block))
    if at > ring.block_bytes - sizeof(tpacket3_hdr):
        return False
    found.next_offset = load_acquire_u32(&packet.tp_next_offset)
    found.bytes = load_acquire_u32(&packet.tp_snaplen)
    found.mac = load_acquire_u16(&packet.tp_mac)
    return (
        found.mac >= sizeof(tpacket3_hdr) and at + found.mac <= ring.block_bytes
        and found.bytes <= ring.block_bytes - (at + found.mac)
        and (found.next_offset >= sizeof(tpacket3_hdr) or ring.left == 1)
    )


cdef uint32_t take_packet(
    PacketRing *ring, tpacket3_hdr *packet, const FoundPacket *found, FrameBurst *burst, uint32_t n, Tally *tally
) noexcept nogil:
    """Make one frame of the ring the n-th of the burst: 1. Or drop it: 0."""
    cdef uint8_t *frame = <uint8_t *>packet + found.mac
    cdef uint32_t bytes = found.bytes
    cdef NetHeader *net = &next_head(burst).net
    cdef Tunnel tunnel
    memcpy(net, frame - NET_HDR_LEGACY_BYTES, NET_HDR_LEGACY_BYTES)
    if bytes != packet.tp_len or bytes > FRAME_ROOM - VLAN_TAG_BYTES:
        count_drops(tally, OVERSIZE, 1)
        return 0
    if bytes < ETHER_HEADER_BYTES:
        count_drops(tally, RUNT, 1)
        return 0
    if packet.tp_status & TP_STATUS_VLAN_VALID:
        # The kernel took the tag out of the frame. It fits in front, over headers that were read already.
        restore_tag(frame, packet)
        frame -= VLAN_TAG_BYTES
        bytes += VLAN_TAG_BYTES
        net.csum_start += VLAN_TAG_BYTES
    add_frame(burst, n, frame, bytes)
    if not give_host_head(burst, &burst.frames[n], bytes):
        count_drops(tally, GSO_UNSUPPORTED, 1)
        return 0
    if net.gso_type and in_datagram(frame, bytes, net.csum_start, &tunnel):
        burst.heads[burst.n_heads].needs |= NEED_TUNNEL
        burst.needs |= NEED_TUNNEL
    return 1


cdef void restore_tag(uint8_t *frame, const tpacket3_hdr *packet) noexcept nogil:
    cdef uint16_t protocol = ETHERTYPE_VLAN
    if packet.tp_status & TP_STATUS_VLAN_TPID_VALID:
        protocol = packet.hv1.tp_vlan_tpid
    cdef uint8_t *tag = frame + ETHER_ADDRESSES_BYTES - VLAN_TAG_BYTES
    memmove(frame - VLAN_TAG_BYTES, frame, ETHER_ADDRESSES_BYTES)
    put16(tag, protocol)
    put16(tag + 2, packet.hv1.tp_vlan_tci)


cdef bint may_receive(PortOps *port, uint32_t pair) noexcept nogil:
    cdef HostQueue *queue = &(<HostPortState *>port.state).queues[pair]
    cdef PacketRing *ring = <PacketRing *>queue.handle
    if queue.fd < 0:
        return False
    # A block that was read to its end is to be given back: receive_burst does that.
    return ring.left or ring.n_held or is_ready(ring, ring.block)


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef PacketRing *ring = <PacketRing *>queue.handle
    cdef Tally *tally = &port.tx[pair]
    cdef const Frame *frames = delivery.frames
    cdef uint32_t i, done = 0, n = delivery.n
    cdef int sent, error, fd
    if queue.fd < 0 or not side.link_up:
        count_drops(tally, LINK_DOWN, n)
        return n
    n = min(n, <uint32_t>BURST)  # as many as `messages` has room for
    for i in range(n):
        address(ring, i, delivery, &frames[i])
    while done < n:
        fd = ring.queue_fd if frames[done].head else ring.send_fd
        if frames[done].n_segments > FEW_PARTS:
            sent = send_alone(queue, fd, delivery, &frames[done])
        else:
            sent = sendmmsg(fd, &ring.messages[done], alike(&frames[done], n - done), MSG_DONTWAIT)
            if sent < 0 and errno == EFAULT:
                sent = send_alone(queue, fd, delivery, &frames[done])
        if sent > 0:
            for i in range(done, done + sent):
                tally.bytes += frames[i].bytes
            tally.frames += sent
            done += sent
            continue
        error = errno
        if error == EAGAIN or error == ENOBUFS:
            return done
        if error == EMSGSIZE:
            count_drops(tally, OVERSIZE, 1)
        elif frames[done].head and (error == EINVAL or error == ENOMEM):
            # The frame's headers are not what its head says. ENOMEM: the kernel tried to cut the frame and could not.
            count_drops(tally, GSO_UNSUPPORTED, 1)
        else:
            report_error(side, error)
            count_drops(tally, LINK_DOWN, 1)
        done += 1
    return n


cdef void address(PacketRing *ring, uint32_t i, const Delivery *delivery, const Frame *frame) noexcept nogil:
    """Let message i name the frame's header and pieces. Of too many pieces none are named: send_alone sends those."""
    cdef const Segment *segments = delivery.segments
    cdef iovec *parts = &ring.parts[i * (1 + FEW_PARTS)]
    cdef uint32_t k
    ring.messages[i].msg_hdr.msg_iov = parts
    ring.messages[i].msg_hdr.msg_iovlen = 1 + frame.n_segments
    parts[0] = iovec(<void *>&delivery.heads[frame.head].net, NET_HDR_LEGACY_BYTES)
    if frame.n_segments == 1:
        parts[1] = iovec(frame.data, frame.bytes)
    elif frame.n_segments <= FEW_PARTS:
        for k in range(frame.n_segments):
            parts[1 + k] = iovec(segments[frame.first_segment + k].data, segments[frame.first_segment + k].bytes)


cdef uint32_t alike(const Frame *frames, uint32_t n) noexcept nogil:
    """How many frames from here on are in few pieces and go the same way."""
    cdef bint queued = frames[0].head != 0
    cdef uint32_t i = 0
    while i < n and frames[i].n_segments <= FEW_PARTS and (frames[i].head != 0) == queued:
        i += 1
    return i


cdef int send_alone(HostQueue *queue, int fd, const Delivery *delivery, const Frame *frame) noexcept nogil:
    cdef mmsghdr message
    cdef iovec parts[2]
    memset(&message, 0, sizeof(message))
    copy_frame(queue.bounce, frame, delivery.segments)
    parts[0] = iovec(<void *>&delivery.heads[frame.head].net, NET_HDR_LEGACY_BYTES)
    parts[1] = iovec(queue.bounce, frame.bytes)
    message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen = &parts[0], 2
    return sendmmsg(fd, &message, 1, MSG_DONTWAIT)


cdef class PacketFiles(HostFiles):
    """A ring, and the port's position in it. Holds the mapping, so that it cannot be unmapped meanwhile."""

    cdef PacketRing ring
    cdef Py_buffer lent
    cdef bint holds

    cdef int hold(self, object memory, uint32_t block_bytes, int receive_fd, int send_fd, int queue_fd) except -1:
        self.make_room(1)
        PyObject_GetBuffer(memory, &self.lent, PyBUF_WRITABLE)
        self.holds = True
        self.ring.ring, self.ring.block_bytes = <uint8_t *>self.lent.buf, block_bytes
        if <size_t>self.lent.len // block_bytes <= 0xffffffffU:
            self.ring.n_blocks = <uint32_t>(<size_t>self.lent.len // block_bytes)
        self.ring.send_fd, self.ring.queue_fd = send_fd, queue_fd
        self.files[0] = HostFile(receive_fd, &self.ring)
        return 0

    cdef void let_go(self) noexcept:
        if self.holds:
            self.holds = False
            PyBuffer_Release(&self.lent)

    def __dealloc__(self) -> None:
        self.let_go()


cdef class PacketPort(HostPort):
    """Reads a TPACKET_V3 ring, sends with sendmmsg straight from where frames lie."""

    def __init__(self, str name, Door door not None) -> None:
        self.make(name, door, 1)
        self.next.lends = True
        self.ops.receive_burst, self.ops.deliver_burst = receive_burst, deliver_burst
        self.ops.may_receive = may_receive
        self.ops.accepts = HOST_NEEDS

    def attach(
        self, ring, uint32_t block_bytes, int receive_fd, int send_fd, int queue_fd, *, bint udp_segments=False
    ) -> None:
        cdef PacketFiles files = PacketFiles()
        if not self.ops.n_pairs:
            raise ValueError("this packet port was never made: call its __init__ first")
        if block_bytes < 4096:
            raise ValueError(f"port {self.name}: blocks of {block_bytes} bytes; a page is the least")
        files.hold(ring, block_bytes, receive_fd, send_fd, queue_fd)
        if not files.ring.n_blocks:
            raise ValueError(f"port {self.name}: a ring of {files.lent.len} bytes for blocks of {block_bytes}")
        self.plan().accepts = HOST_NEEDS | (NEED_USO if udp_segments else 0)
        self.swap(files)
        self.end_setter()
