"""What the ring formats share: the rules they enforce, and finding a descriptor's buffer in host memory.

The driver may change any of this memory at any time. So: every word is loaded once, the loaded copy is checked, and
only the copy is used. What breaks the rules of a ring stops that ring (its status is sticky) and nothing else.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport read_once_desc
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_DESC_BYTES,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_MAX_SIZE,
    virtq_desc,
)
from fastvhost.dataplane.debug cimport DEBUG, check
from fastvhost.dataplane.frame cimport Chain, Segment
from fastvhost.dataplane.guest_memory cimport Region, RegionTable, find_region, holds_host, in_region

SENTENCES = (
    "",
    "the available index ran ahead by more than the queue's size",
    "an available entry names a descriptor beyond the queue",
    "a descriptor's next field points beyond its table",
    "a descriptor chain is longer than its table: it loops",
    "a descriptor's address range is not in shared memory",
    "a device-readable descriptor in a receiveq",
    "a device-writable descriptor in a transmitq",
    "an indirect descriptor, which was not negotiated",
    "an indirect descriptor inside an indirect table, or one with a next",
    "an indirect table whose size is no multiple of 16, is 0, or is beyond 32768 descriptors",
    "a receive chain too short for the virtio-net header",
    "a descriptor chain in more than 65535 pieces",
    "the ring lies in no shared memory region any more",
    "fastvhost gave back more chains than it took, which is a defect of fastvhost; please report it",
)
if len(SENTENCES) != N_RING_STATUS:
    raise ImportError("ring: SENTENCES and the enum RingStatus differ")


cdef int add_segments(
    Ring *ring, uint64_t guest_addr, uint32_t length, Segment *segments, uint32_t *n_segments, uint32_t places
) noexcept nogil:
    """One descriptor's buffer: one segment, or one for each adjacent region that it spans.

    A descriptor of 0 bytes uses a segment as well, since the number of segments is what bounds the work of a burst.
    """
    cdef const Region *region
    cdef uint64_t room
    if length == 0:
        if n_segments[0] >= places:
            return NO_SEGMENTS_LEFT
        segments[n_segments[0]] = Segment(ring.descriptor_area, 0)    # any valid pointer: 0 bytes are read
        n_segments[0] += 1
    while length:
        region = find_region(ring.table, guest_addr)
        if region == NULL:
            return RING_ADDRESS_OUTSIDE_MEMORY
        if n_segments[0] >= places:
            return NO_SEGMENTS_LEFT
        ring.hot_region = <uint32_t>(region - ring.table.regions)
        room = region.bytes - (guest_addr - region.guest_addr)
        room = min(room, <uint64_t>length)
        segments[n_segments[0]] = Segment(region.host + (guest_addr - region.guest_addr), <uint32_t>room)
        n_segments[0] += 1
        guest_addr += room
        length -= <uint32_t>room
    return RING_OK


cdef bint read_desc_anywhere(const RegionTable *table, uint64_t guest_addr, virtq_desc *d) noexcept nogil:
    """Fetch one descriptor of an indirect table, which may stand at any address and span adjacent regions."""
    cdef const Region *region = find_region(table, guest_addr)
    cdef uint8_t *data
    cdef uint32_t got = 0, piece
    if region == NULL:
        return False
    data = in_region(region, guest_addr, VIRTQ_DESC_BYTES)
    if data != NULL:
        d[0] = read_once_desc(<const virtq_desc *>data)
        return True
    while got < VIRTQ_DESC_BYTES:
        region = find_region(table, guest_addr + got)
        if region == NULL:
            return False
        piece = <uint32_t>min(
            region.bytes - (guest_addr + got - region.guest_addr), <uint64_t>(VIRTQ_DESC_BYTES - got)
        )
        memcpy(<uint8_t *>d + got, region.host + (guest_addr + got - region.guest_addr), piece)
        got += piece
    return True


cdef int check_indirect(const Ring *ring, const virtq_desc *d, bint inside_table) noexcept nogil:
    """Whether a descriptor may refer to an indirect table. Sections 2.7.5.3.1 and 2.8.7."""
    if not ring.indirect:
        return RING_INDIRECT_NOT_NEGOTIATED
    if inside_table or d.flags & VIRTQ_DESC_F_NEXT:
        return RING_INDIRECT_NESTED
    if d.len == 0 or d.len % VIRTQ_DESC_BYTES or d.len // VIRTQ_DESC_BYTES > VIRTQ_MAX_SIZE:
        return RING_INDIRECT_TABLE_SIZE
    return RING_OK


cdef void finish_chain(
    Chain *chain, const Segment *segments, uint32_t first, uint32_t *n_segments, uint64_t bytes
) noexcept nogil:
    """Fill in a chain whose segments were added from `first` on. A lone segment is removed from the pool again."""
    chain.bytes = <uint32_t>min(bytes, 0xffffffffU)
    chain.first_segment = first
    chain.n_segments, chain.head = n_segments[0] - first, 0
    chain.data = NULL
    if chain.n_segments == 1:
        chain.data = segments[first].data
        n_segments[0] = first


cdef void stop_taking(Ring *ring, int status, uint32_t n_segments) noexcept nogil:
    """No chain can be taken. That breaks the ring, unless earlier takes of the burst left too few segments."""
    if status != NO_SEGMENTS_LEFT:
        ring.status = <RingStatus>status
    elif n_segments == 0:
        ring.status = RING_CHAIN_PIECES


cdef void check_chains(
    const Ring *ring, const Chain *chains, uint32_t n, const Segment *segments, uint32_t n_segments
) noexcept nogil:
    """Check that chains, or frames in them, lie in guest memory, and have the pieces and the length that they say."""
    cdef uint32_t i, k
    cdef uint64_t total
    cdef const Segment *piece
    if not DEBUG:
        return
    for i in range(n):
        total = chains[i].bytes
        check(chains[i].n_segments > 0, "ring: a chain has a piece")
        if chains[i].n_segments > 1:
            check(
                <uint64_t>chains[i].first_segment + chains[i].n_segments <= n_segments,
                "ring: a chain's pieces are in the pool",
            )
            total = 0
        for k in range(chains[i].n_segments):
            piece = &segments[chains[i].first_segment + k]
            if chains[i].n_segments > 1:
                total += piece.bytes
                check(
                    piece.bytes == 0 or holds_host(ring.table, piece.data, piece.bytes), "ring: a piece is in memory"
                )
            else:
                check(
                    total == 0 or holds_host(ring.table, chains[i].data, total), "ring: a lone piece is in memory"
                )
        check(min(total, 0xffffffffU) == chains[i].bytes, "ring: a chain is as long as its pieces together")
