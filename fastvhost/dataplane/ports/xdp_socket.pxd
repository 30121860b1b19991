"""An AF_XDP socket as the port uses it: memory shared with the kernel, and four rings over its chunks. af_xdp.rst."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


# A chunk is a page, the most that the kernel takes. A frame that arrives lies behind the headroom that XDP keeps in its
# chunk. The first RECEIVE_CHUNKS chunks go round by the fill ring and the receive ring, the others are for sending.
cdef enum:
    CHUNK_BYTES = 4096
    RECEIVE_CHUNKS = 2048
    SEND_CHUNKS = 1024
    HEADROOM_BYTES = 256     # XDP_PACKET_HEADROOM


# One ring. Its indices count up and wrap at 2^32; entry number index & mask.
cdef struct KernelRing:
    uint32_t *producer
    uint32_t *consumer
    uint32_t *flags
    void *entries
    uint32_t mask
    void *mapping
    size_t bytes


cdef class XdpSocket:
    cdef readonly int fd
    cdef readonly bint zero_copy
    cdef bint used               # a port has it, or had it: its rings are not where they start any more
    cdef bint in_use             # a port has it
    cdef bint closing            # to be closed when that port lets go of it
    cdef uint8_t *memory
    cdef KernelRing fill         # we produce: chunks for what arrives, uint64_t
    cdef KernelRing completion   # the kernel produces: chunks that were sent, uint64_t
    cdef KernelRing received     # the kernel produces, xdp_desc
    cdef KernelRing transmit     # we produce, xdp_desc
    cdef int set_up(self) except -1
    cdef int map_ring(
        self, KernelRing *ring, const void *offsets, uint32_t n, size_t entry_bytes, uint64_t at
    ) except -1
    cdef void let_go(self) noexcept
