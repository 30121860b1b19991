"""AF_XDP sockets and the XDP program that feeds them, by the kernel's own calls. Linux, af_xdp.rst; bpf(2)."""

from libc.errno cimport EBUSY, EEXIST, EPERM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport store_release_u32

cdef extern from * nogil:
    """
    #include <linux/if_xdp.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #ifndef AF_XDP
    #define AF_XDP 44
    #endif
    #ifndef SOL_XDP
    #define SOL_XDP 283
    #endif
    #ifndef XDP_MAX_TX_SKB_BUDGET
    #define XDP_MAX_TX_SKB_BUDGET 9     /* Linux 6.17 */
    #endif
    """
    struct xdp_umem_reg:
        uint64_t addr
        uint64_t len
        uint32_t chunk_size
    struct xdp_ring_offset:
        uint64_t producer
        uint64_t consumer
        uint64_t desc
        uint64_t flags
    struct xdp_mmap_offsets:
        xdp_ring_offset rx
        xdp_ring_offset tx
        xdp_ring_offset fr
        xdp_ring_offset cr
    struct xdp_desc:
        uint64_t addr
    struct sockaddr_xdp:
        uint16_t sxdp_family
        uint16_t sxdp_flags
        uint32_t sxdp_ifindex
        uint32_t sxdp_queue_id
    struct xdp_statistics:
        uint64_t rx_dropped
        uint64_t rx_ring_full
    struct xdp_options:
        uint32_t flags
    struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    const int AF_XDP, SOCK_RAW, SOCK_CLOEXEC, SOL_SOCKET, SO_SNDBUF, SO_SNDBUFFORCE, MAP_POPULATE
    const int SOL_XDP, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING
    const int XDP_MMAP_OFFSETS, XDP_STATISTICS, XDP_OPTIONS, XDP_OPTIONS_ZEROCOPY, XDP_MAX_TX_SKB_BUDGET
    const int XDP_COPY, XDP_USE_NEED_WAKEUP
    const uint64_t XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING
    int socket(int family, int type, int protocol)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t bytes)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *bytes)
    int bind(int fd, const sockaddr *address, socklen_t bytes)

cdef extern from "fastvhost/dataplane/ports/redirect.h" nogil:
    int redirect_make_map(uint32_t queues)
    int redirect_load(int map)
    int redirect_attach(int program, int interface_index, int native)
    int redirect_steer(int map, uint32_t queue, int socket)

cdef size_t MEMORY_BYTES = <size_t>(RECEIVE_CHUNKS + SEND_CHUNKS) * CHUNK_BYTES

LONGEST = CHUNK_BYTES - HEADROOM_BYTES


class XdpError(Exception):
    """A call that the kernel refused: which step of setting up it was, and its errno."""

    def __init__(self, step, number) -> None:
        super().__init__(f"{step}: errno {number}")
        self.step, self.number = step, number


cdef class XdpSocket:
    """A socket bound to one receive queue of an interface, with memory and rings of its own."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.fd = -1

    def __init__(self, int interface_index, uint32_t queue, bint copy=False) -> None:
        cdef sockaddr_xdp address
        cdef xdp_options options
        cdef socklen_t bytes = sizeof(options)
        cdef int status
        if self.fd >= 0 or self.closing:
            raise ValueError("an AF_XDP socket is opened once")
        self.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
        if self.fd < 0:
            raise XdpError("socket", errno)
        try:
            self.set_up()
            memset(&address, 0, sizeof(address))
            address.sxdp_family, address.sxdp_ifindex, address.sxdp_queue_id = AF_XDP, interface_index, queue
            # Without XDP_COPY the kernel tries zero-copy where the driver has it, and copies where it does not work.
            address.sxdp_flags = XDP_USE_NEED_WAKEUP | (XDP_COPY if copy else 0)
            with nogil:
                status = bind(self.fd, <const sockaddr *>&address, sizeof(address))
            if status:
                raise XdpError("bind", errno)
        except BaseException:
            self.close()
            raise
        options.flags = 0
        getsockopt(self.fd, SOL_XDP, XDP_OPTIONS, &options, &bytes)
        self.zero_copy = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0

    cdef int set_up(self) except -1:
        """Memory and rings; every chunk for what arrives is the kernel's from the start."""
        cdef xdp_umem_reg region
        cdef xdp_mmap_offsets offsets
        cdef socklen_t bytes = sizeof(offsets)
        cdef uint32_t i, receives = RECEIVE_CHUNKS, sends = SEND_CHUNKS
        cdef int room = 4 << 20
        cdef void *memory = mmap(
            NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0
        )
        if memory == MAP_FAILED:
            raise XdpError("memory", errno)
        self.memory = <uint8_t *>memory
        memset(&region, 0, sizeof(region))
        region.addr, region.len, region.chunk_size = <uint64_t>memory, MEMORY_BYTES, CHUNK_BYTES
        if setsockopt(self.fd, SOL_XDP, XDP_UMEM_REG, &region, sizeof(region)):
            raise XdpError("memory", errno)
        if (
            setsockopt(self.fd, SOL_XDP, XDP_UMEM_FILL_RING, &receives, sizeof(receives))
            or setsockopt(self.fd, SOL_XDP, XDP_RX_RING, &receives, sizeof(receives))
            or setsockopt(self.fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &sends, sizeof(sends))
            or setsockopt(self.fd, SOL_XDP, XDP_TX_RING, &sends, sizeof(sends))
            or getsockopt(self.fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &bytes)
        ):
            raise XdpError("rings", errno)
        self.map_ring(&self.fill, &offsets.fr, receives, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING)
        self.map_ring(&self.received, &offsets.rx, receives, sizeof(xdp_desc), XDP_PGOFF_RX_RING)
        self.map_ring(&self.completion, &offsets.cr, sends, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING)
        self.map_ring(&self.transmit, &offsets.tx, sends, sizeof(xdp_desc), XDP_PGOFF_TX_RING)
        # Where the kernel copies, frames being sent count against SO_SNDBUF, and it takes 32 frames a call. With more
        # of both, a burst is sent by one call. A kernel that refuses either still works.
        if setsockopt(self.fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)):
            setsockopt(self.fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room))
        setsockopt(self.fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &sends, sizeof(sends))
        for i in range(receives):
            (<uint64_t *>self.fill.entries)[i] = <uint64_t>i * CHUNK_BYTES
        store_release_u32(self.fill.producer, receives)  # pairs with the kernel taking chunks
        return 0

    cdef int map_ring(
        self, KernelRing *ring, const void *offsets, uint32_t n, size_t entry_bytes, uint64_t at
    ) except -1:
        cdef const xdp_ring_offset *where = <const xdp_ring_offset *>offsets
        cdef size_t bytes = where.desc + n * entry_bytes
        cdef void *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.fd, at)
        if mapping == MAP_FAILED:
            raise XdpError("rings", errno)
        ring.mapping, ring.bytes, ring.mask = mapping, bytes, n - 1
        ring.producer = <uint32_t *>(<uint8_t *>mapping + where.producer)
        ring.consumer = <uint32_t *>(<uint8_t *>mapping + where.consumer)
        ring.flags = <uint32_t *>(<uint8_t *>mapping + where.flags)
        ring.entries = <uint8_t *>mapping + where.desc
        return 0

    def dropped(self) -> int:
        cdef xdp_statistics figures
        cdef socklen_t bytes = sizeof(figures)
        if self.fd < 0:
            return 0
        memset(&figures, 0, sizeof(figures))
        if getsockopt(self.fd, SOL_XDP, XDP_STATISTICS, &figures, &bytes):
            return 0
        return figures.rx_dropped + figures.rx_ring_full

    def close(self) -> None:
        self.closing = True
        if not self.in_use:
            self.let_go()

    cdef void let_go(self) noexcept:
        cdef KernelRing *rings[4]
        cdef int i
        rings[0], rings[1], rings[2], rings[3] = &self.fill, &self.completion, &self.received, &self.transmit
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        for i in range(4):
            if rings[i].mapping != NULL:
                munmap(rings[i].mapping, rings[i].bytes)
                rings[i].mapping = NULL
        if self.memory != NULL:
            munmap(self.memory, MEMORY_BYTES)
            self.memory = NULL

    def __dealloc__(self) -> None:
        self.let_go()


cdef class Redirect:
    """The XDP program on an interface that hands frames of a queue to the socket for it; others pass to the host."""

    cdef int map
    cdef int program
    cdef int link
    cdef readonly bint native

    def __cinit__(self, *args, **kwargs) -> None:
        self.map = self.program = self.link = -1

    def __init__(self, int interface_index, uint32_t queues) -> None:
        if self.map >= 0 or queues == 0:
            raise ValueError("a program is attached once, for one queue at least")
        try:
            self.map = redirect_make_map(queues)
            if self.map < 0:
                raise XdpError("map", errno)
            self.program = redirect_load(self.map)
            if self.program < 0:
                raise XdpError("program", errno)
            self.native = True
            self.link = redirect_attach(self.program, interface_index, True)
            if self.link < 0 and errno not in (EBUSY, EEXIST, EPERM):
                self.native = False
                self.link = redirect_attach(self.program, interface_index, False)
            if self.link < 0:
                raise XdpError("attach", errno)
        except BaseException:
            self.close()
            raise

    def steer(self, uint32_t queue, XdpSocket socket not None) -> None:
        if redirect_steer(self.map, queue, socket.fd):
            raise XdpError("steer", errno)

    def close(self) -> None:
        self.let_go()

    cdef void let_go(self) noexcept:
        if self.link >= 0:
            close(self.link)
        if self.program >= 0:
            close(self.program)
        if self.map >= 0:
            close(self.map)
        self.map = self.program = self.link = -1

    def __dealloc__(self) -> None:
        self.let_go()
