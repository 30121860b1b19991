"""An interface of this host through libpcap. pcap(3PCAP).

Immediate mode, because libpcap otherwise waits for a buffer to fill; direction in, because it would otherwise show what
was injected; 64 frames a dispatch. libpcap lends a frame only until the callback returns, so the callback copies it
into memory of the port. libpcap does not say what a frame leaves to the card. So unfinished checksums of frames that
arrive are recognised by their values, and frames that leave are finished first.
"""

from libc.errno cimport EAGAIN, EFAULT, EMSGSIZE, ENETDOWN, ENOBUFS, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport LINK_DOWN, OVERSIZE, RUNT
from fastvhost.dataplane.frame cimport BURST, Delivery, FrameBurst, Frame
from fastvhost.dataplane.offload.finish cimport copy_finished
from fastvhost.dataplane.offload.unfinished cimport look_for_unfinished
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
    look_at_once,
    may_look,
    report_error,
    report_first_frame,
)
from fastvhost.dataplane.ports.pcap_library cimport (
    DLT_EN10MB,
    PCAP_D_IN,
    PCAP_ERRBUF_SIZE,
    PCAP_ERROR_IFACE_NOT_UP,
    PCAP_ERROR_NO_SUCH_DEVICE,
    PCAP_ERROR_PERM_DENIED,
    PCAP_ERROR_PROMISC_PERM_DENIED,
    load_pcap_library,
    pcap_library,
    pcap_pkthdr,
    pcap_stat,
    pcap_t,
)
from fastvhost.dataplane.tally cimport Tally, count_drops


class PcapError(Exception):
    """A call to libpcap failed. reason: the kind of fault."""

    def __init__(self, text, reason) -> None:
        super().__init__(text)
        self.reason = reason


def pcap_version() -> str:
    problem = load_pcap_library()
    if problem != NULL:
        raise PcapError(problem.decode(), "library")
    return pcap_library.lib_version().decode()


_REASONS = {
    PCAP_ERROR_PERM_DENIED: "permission",
    PCAP_ERROR_PROMISC_PERM_DENIED: "permission",
    PCAP_ERROR_NO_SUCH_DEVICE: "missing",
    PCAP_ERROR_IFACE_NOT_UP: "down",
}


cdef class Capture:
    """An interface opened with libpcap: immediate, direction in, non-blocking, promiscuous."""

    cdef pcap_t *handle
    cdef int fd
    cdef uint32_t users          # ports that read and write through it
    cdef bint closing            # to be closed when they let go of it

    def __init__(self, str interface, int buffer_bytes=32 << 20) -> None:
        cdef char errbuf[PCAP_ERRBUF_SIZE]
        cdef const char *problem = load_pcap_library()
        cdef int status
        if problem != NULL:
            raise PcapError(problem.decode(), "library")
        if self.handle != NULL or self.closing:
            raise ValueError(f"{interface}: a capture is opened once")
        errbuf[0] = 0
        name = interface.encode()
        self.handle = pcap_library.create(name, errbuf)
        if self.handle == NULL:
            raise PcapError(f"libpcap: {errbuf.decode(errors='replace')}", "other")
        pcap_library.set_snaplen(self.handle, FRAME_ROOM)
        pcap_library.set_promisc(self.handle, 1)
        pcap_library.set_immediate_mode(self.handle, 1)
        pcap_library.set_buffer_size(self.handle, buffer_bytes)
        with nogil:
            status = pcap_library.activate(self.handle)
        if status < 0:
            said = (<bytes>pcap_library.geterr(self.handle) or <bytes>pcap_library.statustostr(status)).decode()
            self.fail(said, _REASONS.get(status, "other"))
        if pcap_library.datalink(self.handle) != DLT_EN10MB:
            self.fail("it carries no Ethernet frames; choose another interface", "other")
        if pcap_library.setnonblock(self.handle, 1, errbuf) or pcap_library.setdirection(self.handle, PCAP_D_IN):
            self.fail(pcap_library.geterr(self.handle).decode(errors="replace"), "other")
        self.fd = pcap_library.get_selectable_fd(self.handle)
        if self.fd < 0:
            self.fail("it cannot be waited for; choose another interface", "other")

    cdef int fail(self, str text, str reason) except -1:
        self.close()
        raise PcapError(text, reason)

    def dropped(self) -> int:
        cdef pcap_stat figures
        if self.handle == NULL or pcap_library.stats(self.handle, &figures):
            return 0
        return figures.ps_drop

    def close(self) -> None:
        self.closing = True
        self.shut()

    cdef void shut(self) noexcept:
        if self.closing and self.users == 0 and self.handle != NULL:
            pcap_library.close(self.handle)
            self.handle = NULL

    def __dealloc__(self) -> None:
        if self.handle != NULL:
            pcap_library.close(self.handle)


# What the callback of one dispatch works on.
cdef struct Catch:
    pcap_t *handle
    HostQueue *queue
    FrameBurst *burst
    Tally *tally
    uint32_t n
    uint32_t at


cdef void take_frame(unsigned char *user, const pcap_pkthdr *header, const unsigned char *data) noexcept nogil:
    """libpcap's callback: one frame, lent until this returns."""
    cdef Catch *catch = <Catch *>user
    cdef uint32_t bytes = header.caplen
    if bytes != header.len or bytes > FRAME_ROOM:
        count_drops(catch.tally, OVERSIZE, 1)
        return
    if bytes < ETHER_HEADER_BYTES:
        count_drops(catch.tally, RUNT, 1)
        return
    memcpy(catch.queue.arena + catch.at, data, bytes)
    add_frame(catch.burst, catch.n, catch.queue.arena + catch.at, bytes)
    look_for_unfinished(catch.burst, &catch.burst.frames[catch.n])
    catch.tally.bytes += bytes
    catch.at += (bytes + 63) & ~63
    catch.n += 1
    if catch.at > ARENA_BYTES - FRAME_ROOM:
        pcap_library.breakloop(catch.handle)


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef Catch catch = Catch(<pcap_t *>queue.handle, queue, burst, &port.rx[pair], 0, 0)
    if queue.fd < 0:
        return 0
    burst.n_heads = burst.needs = 0
    if pcap_library.dispatch(catch.handle, BURST, take_frame, <unsigned char *>&catch) == -1:
        report_error(side, ENETDOWN)
    if catch.n:
        port.rx[pair].frames += catch.n
        queue.quiet_since = 0
        if not side.seen_frame:
            report_first_frame(side)
    burst.n_frames = catch.n
    return catch.n


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef HostPortState *side = <HostPortState *>port.state
    cdef HostQueue *queue = &side.queues[pair]
    cdef Tally *tally = &port.tx[pair]
    cdef const Frame *frames = delivery.frames
    cdef uint32_t i, n = delivery.n
    cdef int sent
    cdef const void *data
    if queue.fd < 0 or not side.link_up:
        count_drops(tally, LINK_DOWN, n)
        return n
    for i in range(n):
        data = frames[i].data
        if frames[i].n_segments != 1 or frames[i].head:
            copy_finished(queue.bounce, delivery, &frames[i])
            data = queue.bounce
        sent = pcap_library.inject(<pcap_t *>queue.handle, data, frames[i].bytes)
        if sent < 0 and errno == EFAULT:
            copy_finished(queue.bounce, delivery, &frames[i])
            sent = pcap_library.inject(<pcap_t *>queue.handle, queue.bounce, frames[i].bytes)
        if sent >= 0:
            tally.frames += 1
            tally.bytes += frames[i].bytes
        elif errno == EAGAIN or errno == ENOBUFS:
            return i
        elif errno == EMSGSIZE:
            count_drops(tally, OVERSIZE, 1)
        else:
            report_error(side, errno)
            count_drops(tally, LINK_DOWN, 1)
    return n


cdef class PcapFiles(HostFiles):
    """A capture, which stays open while a port uses it."""

    cdef Capture capture

    cdef int hold(self, Capture capture) except -1:
        self.make_room(1)
        self.files[0] = HostFile(capture.fd, capture.handle)
        self.capture, capture.users = capture, 1
        return 0

    cdef void let_go(self) noexcept:
        cdef Capture capture = self.capture
        self.capture = None
        if capture is not None:
            capture.users = 0
            capture.shut()

    def __dealloc__(self) -> None:
        self.let_go()


cdef class PcapPort(HostPort):
    """Reads up to 64 frames by one pcap_dispatch(), and sends each by a pcap_inject()."""

    def __init__(self, str name, Door door not None) -> None:
        self.make(name, door, 1)
        self.ops.receive_burst = receive_burst
        self.ops.deliver_burst = deliver_burst
        self.ops.may_receive, self.ops.want_kicks = may_look, look_at_once

    def attach(self, Capture capture not None) -> None:
        cdef PcapFiles files = PcapFiles()
        if not self.ops.n_pairs:
            raise ValueError("this pcap port was never made: call its __init__ first")
        if capture.handle == NULL or capture.closing:
            raise ValueError(f"port {self.name}: the capture is closed")
        if capture.users:
            raise ValueError(f"port {self.name}: a port has that capture already; detach it there first")
        files.hold(capture)
        self.swap(files)
        self.end_setter()
