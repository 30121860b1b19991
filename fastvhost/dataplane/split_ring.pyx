"""The device side of one split virtqueue. Virtio 1.2, section 2.7.

The driver may change any of this memory at any time. So: every word is loaded once, the loaded copy is checked, and
only the copy is used. What breaks the rules of the ring stops the ring (its status is sticky) and nothing else; chains
taken before the bad one are still good.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport (
    full_fence,
    load_acquire_u16,
    load_u16,
    prefetch_read,
    prefetch_write,
    read_once_desc,
    store_release_u16,
    store_u16,
    write_u64_anywhere,
)
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC_BYTES,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    VIRTQ_MAX_SIZE,
    VIRTQ_USED_F_NO_NOTIFY,
    virtq_desc,
)
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Chain, Segment
from fastvhost.dataplane.guest_memory cimport Region, RegionTable, find_region, in_region

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
    "a receive chain in more than 65535 pieces",
    "the ring lies in no shared memory region any more",
)
if len(SENTENCES) != N_RING_STATUS:
    raise ImportError("split_ring: SENTENCES and the enum RingStatus differ")

# walk() ran out of segments: not the ring's fault, so not a RingStatus.
cdef enum:
    NO_SEGMENTS_LEFT = N_RING_STATUS


cdef void reset_ring(SplitRing *ring, uint16_t base) noexcept nogil:
    """Start at this available index. While we poll, the driver need not kick. Sections 2.7.7 and 2.7.10."""
    ring.next_avail = base
    ring.next_used = ring.published_used = load_u16(&ring.used.idx)
    ring.outstanding = 0
    ring.hot_region = 0
    ring.status = RING_OK
    if ring.event_idx:
        store_u16(&ring.used.flags, 0)
        store_u16(avail_event(ring), base - 1)  # as far away as it can be
    else:
        store_u16(&ring.used.flags, VIRTQ_USED_F_NO_NOTIFY)


cdef uint32_t take(
    SplitRing *ring, uint32_t skip, Chain *chains, uint32_t most, Segment *segments, uint32_t *n_segments
) noexcept nogil:
    """Resolve up to `most` available chains, `skip` entries behind the cursor, to host memory.

    Returns how many; fewer when the ring holds fewer, breaks, or segments run out. The cursor stays.
    """
    cdef virtq_desc *desc = ring.desc
    cdef uint16_t *entries = ring.avail.ring
    cdef uint16_t size = ring.size, mask = size - 1, direction = ring.direction
    cdef uint16_t first = ring.next_avail + skip
    cdef uint32_t available = <uint16_t>(load_acquire_u16(&ring.avail.idx) - ring.next_avail)  # pairs with the driver's
    cdef uint32_t n, i
    cdef uint16_t head
    cdef virtq_desc d
    cdef Region hot
    cdef uint8_t *data
    cdef Chain *chain
    cdef int status

    if available > size:
        ring.status = RING_AVAIL_JUMP
        return 0
    if available <= skip:
        return 0
    n = min(available - skip, most)

    for i in range(n):
        head = load_u16(&entries[<uint16_t>(first + i) & mask])
        if head >= size:
            ring.status = RING_HEAD_BEYOND_QUEUE
            n = i
            break
        chains[i].head = head
        prefetch_read(&desc[head])

    hot = ring.table.regions[ring.hot_region]
    for i in range(n):
        chain = &chains[i]
        d = read_once_desc(&desc[chain.head])
        # A chain of one descriptor in the region of the one before it: nearly all of them.
        if d.flags == direction:
            data = in_region(&hot, d.addr, d.len)
            if data != NULL:
                if direction:
                    prefetch_write(data)
                    prefetch_write(data + 64)
                else:
                    prefetch_read(data)
                    prefetch_read(data + 64)
                chain.data = data
                chain.bytes = d.len
                chain.n_segments = 1
                continue
        status = walk(ring, d, chain, segments, n_segments)
        if status != RING_OK:
            if status == NO_SEGMENTS_LEFT and n_segments[0] == 0:
                # Alone in the pool and still too large: no frame is. Its length says so to whoever looks.
                if direction:
                    ring.status = RING_RECEIVE_CHAIN_PIECES
                    return i
                chain.n_segments, chain.bytes = 0, 0xffffffff
                return i + 1
            if status != NO_SEGMENTS_LEFT:
                ring.status = <RingStatus>status
            return i
        hot = ring.table.regions[ring.hot_region]
    return n


cdef int walk(
    SplitRing *ring, virtq_desc d, Chain *chain, Segment *segments, uint32_t *n_segments
) noexcept nogil:
    """Follow one chain, through an indirect table if it has one. Sections 2.7.5 and 2.7.5.3."""
    cdef const RegionTable *table = ring.table
    cdef uint32_t first = n_segments[0], descriptors = ring.size, seen = 0
    cdef uint64_t total = 0, indirect_addr = 0
    cdef bint indirect = False
    cdef int status

    while True:
        if d.flags & VIRTQ_DESC_F_INDIRECT:
            if not ring.indirect:
                return RING_INDIRECT_NOT_NEGOTIATED
            if indirect or d.flags & VIRTQ_DESC_F_NEXT:
                return RING_INDIRECT_NESTED
            if d.len == 0 or d.len % VIRTQ_DESC_BYTES or d.len // VIRTQ_DESC_BYTES > VIRTQ_MAX_SIZE:
                return RING_INDIRECT_TABLE_SIZE
            indirect, indirect_addr, descriptors, seen = True, d.addr, d.len // VIRTQ_DESC_BYTES, 0
            d.next = 0
        else:
            if (d.flags & VIRTQ_DESC_F_WRITE) != ring.direction:
                return RING_READABLE_IN_RECEIVEQ if ring.direction else RING_WRITABLE_IN_TRANSMITQ
            if d.len:
                total += d.len
                status = add_segments(ring, d.addr, d.len, segments, n_segments)
                if status != RING_OK:
                    n_segments[0] = first
                    return status
            if not d.flags & VIRTQ_DESC_F_NEXT:
                break
            if d.next >= descriptors:
                return RING_NEXT_BEYOND_TABLE
            seen += 1
            if seen >= descriptors:
                return RING_LOOP
        if not indirect:
            d = read_once_desc(&ring.desc[d.next])
        elif not read_indirect(table, indirect_addr + <uint64_t>d.next * VIRTQ_DESC_BYTES, &d):
            return RING_ADDRESS_OUTSIDE_MEMORY

    chain.bytes = <uint32_t>min(total, 0xffffffffU)
    chain.first_segment = first
    chain.n_segments = n_segments[0] - first
    chain.data = NULL
    if chain.n_segments == 1:
        chain.data = segments[first].data
        n_segments[0] = first
    return RING_OK


cdef int add_segments(
    SplitRing *ring, uint64_t guest_addr, uint32_t length, Segment *segments, uint32_t *n_segments
) noexcept nogil:
    """One descriptor's buffer: one segment, or one for each adjacent region that it spans."""
    cdef const Region *region
    cdef uint64_t room
    while length:
        region = find_region(ring.table, guest_addr)
        if region == NULL:
            return RING_ADDRESS_OUTSIDE_MEMORY
        if n_segments[0] == MAX_SEGMENTS:
            return NO_SEGMENTS_LEFT
        ring.hot_region = <uint32_t>(region - ring.table.regions)
        room = region.bytes - (guest_addr - region.guest_addr)
        room = min(room, <uint64_t>length)
        segments[n_segments[0]] = Segment(region.host + (guest_addr - region.guest_addr), <uint32_t>room)
        n_segments[0] += 1
        guest_addr += room
        length -= <uint32_t>room
    return RING_OK


cdef bint read_indirect(const RegionTable *table, uint64_t guest_addr, virtq_desc *d) noexcept nogil:
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


cdef void complete_taken(SplitRing *ring, const uint16_t *heads, uint32_t n) noexcept nogil:
    """Stage n chains, consumed in this order, as used with nothing written to them. Section 2.7.8."""
    cdef uint16_t mask = ring.size - 1, at = ring.next_used
    cdef uint8_t *used = <uint8_t *>ring.used.ring
    cdef uint32_t i
    for i in range(n):
        write_u64_anywhere(used + 8 * <uint32_t>(<uint16_t>(at + i) & mask), heads[i])
    ring.next_used = at + n
    ring.outstanding -= n


cdef bint publish(SplitRing *ring) noexcept nogil:
    """Make staged used entries visible; whether the driver wants to be notified. Sections 2.7.7.2 and 2.7.10."""
    cdef uint16_t new = ring.next_used, old = ring.published_used
    if new == old:
        return False
    store_release_u16(&ring.used.idx, new)  # pairs with the driver's read of used.idx
    ring.published_used = new
    full_fence()  # the index must be visible before we look whether the driver sleeps; pairs with the driver's
    if ring.event_idx:
        return <uint16_t>(new - load_u16(used_event(ring)) - 1) < <uint16_t>(new - old)
    return not load_u16(&ring.avail.flags) & VIRTQ_AVAIL_F_NO_INTERRUPT
