"""The device side of one packed virtqueue. Virtio 1.2, section 2.8. The contract is ring.pxd's.

One ring of descriptors that both sides write. A descriptor is available when its AVAIL flag equals the driver's wrap
counter and its USED flag does not; a used one has both equal to the device's wrap counter (section 2.8.1). Any size
from 1 to 32768 will do. A ticket is the buffer id, and above it the number of descriptors that the chain occupies.
Chains are taken here; what the device writes back is packed_used's.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport (
    load_acquire_u64,
    load_u16,
    load_u64,
    prefetch_read,
    prefetch_write,
    read_once_packed_desc,
    read_once_packed_desc_anywhere,
    store_u16,
)
from fastvhost.abi.virtio_packed cimport (
    RING_EVENT_FLAGS_DISABLE,
    RING_EVENT_FLAGS_ENABLE,
    TAIL_ID_SHIFT,
    VIRTQ_DESC_F_AVAIL,
    VIRTQ_DESC_F_USED,
    pvirtq_desc,
    pvirtq_event_suppress,
    tail_of,
)
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_DESC_BYTES,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    virtq_desc,
)
from fastvhost.dataplane.debug cimport DEBUG
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Chain, Segment
from fastvhost.dataplane.guest_memory cimport Region, holds, in_region
from fastvhost.dataplane.packed_marks cimport BOTH_FLAGS, SLOTS_SHIFT, check_counts, is_available
from fastvhost.dataplane.packed_used cimport complete, publish
from fastvhost.dataplane.ring cimport (
    RING_ADDRESS_OUTSIDE_MEMORY,
    RING_LOOP,
    RING_MISCOUNTED,
    RING_OK,
    RING_READABLE_IN_RECEIVEQ,
    RING_WRITABLE_IN_TRANSMITQ,
    Ring,
    add_hot_segment,
    add_segments,
    check_chains,
    check_indirect,
    finish_chain,
    places_for,
    read_desc_anywhere,
    stop_taking,
)

cdef enum:
    DESCRIPTORS_PER_LINE = 4
    CHAIN_FLAGS = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT
    ONE_SLOT = 1 << SLOTS_SHIFT     # in the ticket of a chain of one descriptor
    FRESH = 1 << 15 | 1 << 31       # as a base: both indices 0, both wrap counters 1


# A chain that is being followed, and what came of it.
cdef struct Walk:
    uint16_t at              # where its first descriptor stands
    uint16_t left            # descriptors of the ring that are not outstanding: it can have no more
    Segment *segments        # the pool, how full it is, and how full it may get
    uint32_t *n_segments
    uint32_t places
    uint64_t bytes           # of its pieces so far
    uint16_t slots           # descriptors of the ring that it occupies


cdef inline void expect(const pvirtq_desc *desc, uint32_t n) noexcept nogil:
    """Prefetch n descriptors for writing: used ones will overwrite them. To prefetch past the end is harmless."""
    cdef uint32_t i
    for i in range((n + DESCRIPTORS_PER_LINE - 1) // DESCRIPTORS_PER_LINE):
        prefetch_write(&desc[i * DESCRIPTORS_PER_LINE])


cdef uint32_t take(
    Ring *ring, Chain *chains, uint32_t most, Segment *segments, uint32_t *n_segments
) noexcept nogil:
    cdef pvirtq_desc *desc = <pvirtq_desc *>ring.descriptor_area
    cdef uint16_t size = ring.size, at = ring.next_avail, slots
    cdef uint16_t left = size - ring.outstanding
    cdef bint wrap = ring.avail_wrap
    cdef uint32_t n = 0, limit
    cdef pvirtq_desc d
    cdef Walk way
    cdef int status = RING_OK

    if ring.status != RING_OK or not left or not is_available(load_u16(&desc[at].flags), wrap):
        return 0
    ring.taken_in_pieces, ring.segments_before = 0, n_segments[0]
    # Where one is available, a burst usually is. What follows it is not prefetched: the driver may be writing there.
    expect(&desc[at], min(most, <uint32_t>left))
    while n < most and left:
        slots = take_plain(ring, &desc[at], wrap, &chains[n], min(most - n, min(<uint32_t>left, <uint32_t>(size - at))))
        n += slots
        if slots == 0:
            # pairs with the driver's store of these flags
            d = read_once_packed_desc(&desc[at])
            if not is_available(d.flags, wrap):
                break
            limit = places_for(ring.segments_before, n - ring.taken_in_pieces) if n else <uint32_t>MAX_SEGMENTS
            way.at, way.left = at, left
            way.segments, way.n_segments, way.places = segments, n_segments, limit
            if not walk_hot(ring, &way, d, &chains[n]):
                status = walk(ring, &way, d, &chains[n])
                if status != RING_OK:
                    break
            slots = way.slots
            ring.taken_in_pieces += chains[n].n_segments != 1
            n += 1
            limit = places_for(ring.segments_before, n - ring.taken_in_pieces)
            most = min(most, n + limit - n_segments[0]) if n_segments[0] < limit else n
        left -= slots
        at += slots
        if at >= size:
            at -= size
            wrap = not wrap
    if n == 0 and status != RING_OK:
        stop_taking(ring, status, n_segments[0])
    ring.outstanding = size - left
    ring.next_avail = at
    ring.avail_wrap = wrap
    if DEBUG:
        check_chains(ring, chains, n, segments, n_segments[0])
    check_counts(ring)
    return n


cdef uint32_t take_plain(
    const Ring *ring, const pvirtq_desc *desc, bint wrap, Chain *chains, uint32_t most
) noexcept nogil:
    """Take chains of one descriptor that lie in the same memory region as the chain before: nearly all of them do.

    Returns how many; the next one is something else, or not available.
    """
    cdef Region hot = ring.table.regions[ring.hot_region]
    cdef uint16_t direction = ring.direction
    cdef uint64_t wanted = tail_of(0, 0, (VIRTQ_DESC_F_AVAIL if wrap else VIRTQ_DESC_F_USED) | direction)
    cdef uint64_t examined = tail_of(0, 0, BOTH_FLAGS | CHAIN_FLAGS), but_flags = tail_of(0xffffffff, 0xffff, 0)
    cdef uint64_t tail, addr
    cdef uint8_t *data
    cdef uint32_t n
    for n in range(most):
        tail = load_acquire_u64(<const uint64_t *>&desc[n].len)  # pairs with the driver's store of these flags
        addr = load_u64(<const uint64_t *>&desc[n].addr)
        if (tail ^ wanted) & examined or not holds(&hot, addr, <uint32_t>tail):
            return n
        data = hot.host + (addr - hot.guest_addr)
        if not direction:
            prefetch_read(data)
            prefetch_read(data + 64)
        chains[n].data = data
        # `bytes` and `ticket` by one store of 8 bytes: they lie as length, id and flags do in a descriptor. The count
        # of slots replaces the flags.
        (<uint64_t *>&chains[n].bytes)[0] = tail & but_flags | <uint64_t>ONE_SLOT << TAIL_ID_SHIFT
        chains[n].n_segments, chains[n].head = 1, 0
    return most


cdef bint walk_hot(Ring *ring, Walk *way, pvirtq_desc d, Chain *chain) noexcept nogil:
    """Follow one chain, or its indirect table, all of it in one region and nothing odd in it.

    False: walk() is to follow it again, from the start. Nothing that was read here is used then, so it does not matter
    that the driver may have changed it meanwhile.
    """
    cdef const pvirtq_desc *ring_table = <const pvirtq_desc *>ring.descriptor_area
    cdef const pvirtq_desc *table
    cdef const Region *hot = &ring.table.regions[ring.hot_region]
    cdef uint32_t first = way.n_segments[0], i, descriptors
    cdef uint16_t count = 1, at = way.at
    cdef virtq_desc entry
    cdef pvirtq_desc piece = d
    way.bytes = 0
    if d.flags & VIRTQ_DESC_F_INDIRECT:
        table = <const pvirtq_desc *>in_region(hot, d.addr, d.len)
        entry.len, entry.flags = d.len, d.flags
        if table == NULL or check_indirect(ring, &entry, False) != RING_OK:
            return False
        descriptors = d.len // VIRTQ_DESC_BYTES
        for i in range(descriptors):
            piece = read_once_packed_desc_anywhere(&table[i])
            if not hot_piece(ring, hot, way, &piece, ring.direction):
                way.n_segments[0] = first
                return False
    else:
        while hot_piece(ring, hot, way, &piece, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT):
            if not piece.flags & VIRTQ_DESC_F_NEXT:
                break
            if count == way.left:
                way.n_segments[0] = first
                return False
            count += 1
            at = at + 1 if at + 1 < ring.size else 0
            piece = read_once_packed_desc(&ring_table[at])
        else:
            way.n_segments[0] = first
            return False
    finish_chain(chain, way.segments, first, way.n_segments, way.bytes)
    chain.ticket = piece.id if count > 1 else d.id
    chain.ticket |= <uint32_t>count << SLOTS_SHIFT
    way.slots = count
    return True


cdef inline bint hot_piece(
    Ring *ring, const Region *hot, Walk *way, const pvirtq_desc *piece, uint16_t flags
) noexcept nogil:
    """Add one piece. flags: a mask; the piece's flags under it must equal the direction."""
    if (
        piece.flags & flags != ring.direction
        or not add_hot_segment(hot, piece.addr, piece.len, way.segments, way.n_segments, way.places)
    ):
        return False
    prefetch_read(way.segments[way.n_segments[0] - 1].data)
    way.bytes += piece.len
    return True


cdef int walk(Ring *ring, Walk *way, pvirtq_desc d, Chain *chain) noexcept nogil:
    """Follow one chain: descriptors side by side, or an indirect table, read from its start to its end.

    The buffer id stands in the last descriptor (section 2.8.6); in a table, NEXT means nothing (section 2.8.7).
    """
    cdef pvirtq_desc *desc = <pvirtq_desc *>ring.descriptor_area
    cdef uint32_t first = way.n_segments[0], i
    cdef uint16_t count = 0, at = way.at
    cdef virtq_desc entry
    cdef int status = RING_OK

    way.bytes = 0
    while True:
        count += 1
        entry.addr, entry.len, entry.flags = d.addr, d.len, d.flags
        if d.flags & VIRTQ_DESC_F_INDIRECT:
            status = check_indirect(ring, &entry, count > 1)
            if status != RING_OK:
                break
            for i in range(d.len // VIRTQ_DESC_BYTES):
                if not read_desc_anywhere(ring.table, d.addr + <uint64_t>i * VIRTQ_DESC_BYTES, &entry):
                    status = RING_ADDRESS_OUTSIDE_MEMORY
                    break
                # The packed layout: flags stand where the split one has next. DPDK's driver (22.11) leaves WRITE on
                # the header of what it sends; to read what we might also write harms nobody.
                status = add_piece(ring, way, entry.addr, entry.len, entry.next & ring.direction)
                if status != RING_OK:
                    break
            break
        status = add_piece(ring, way, d.addr, d.len, d.flags)
        if status != RING_OK or not d.flags & VIRTQ_DESC_F_NEXT:
            break
        if count == way.left:
            status = RING_LOOP
            break
        at = at + 1 if at + 1 < ring.size else 0
        d = read_once_packed_desc(&desc[at])

    if status != RING_OK:
        way.n_segments[0] = first
        return status
    finish_chain(chain, way.segments, first, way.n_segments, way.bytes)
    chain.ticket = d.id | <uint32_t>count << SLOTS_SHIFT
    way.slots = count
    return RING_OK


cdef int add_piece(Ring *ring, Walk *way, uint64_t addr, uint32_t length, uint16_t flags) noexcept nogil:
    if (flags & VIRTQ_DESC_F_WRITE) != ring.direction:
        return RING_READABLE_IN_RECEIVEQ if ring.direction else RING_WRITABLE_IN_TRANSMITQ
    way.bytes += length
    return add_segments(ring, addr, length, way.segments, way.n_segments, way.places)


cdef void untake(Ring *ring, const Chain *chains, uint32_t n) noexcept nogil:
    cdef uint32_t i, slots = 0
    for i in range(min(n, ring.outstanding)):
        slots += chains[i].ticket >> SLOTS_SHIFT
    if n > ring.outstanding or slots > ring.outstanding:
        ring.status = RING_MISCOUNTED
        return
    go_back(ring, slots)


cdef void go_back(Ring *ring, uint32_t slots) noexcept nogil:
    if ring.next_avail >= slots:
        ring.next_avail -= slots
    else:
        ring.next_avail = <uint16_t>(ring.next_avail + ring.size - slots)
        ring.avail_wrap = not ring.avail_wrap
    ring.outstanding -= slots
    check_counts(ring)


cdef bint has_work(const Ring *ring) noexcept nogil:
    return is_available(
        load_u16(&(<pvirtq_desc *>ring.descriptor_area)[ring.next_avail].flags), ring.avail_wrap
    )


cdef void want_kicks(Ring *ring, bint wanted) noexcept nogil:
    """Section 2.8.10. One flag turns notifications of all descriptors on or off."""
    store_u16(
        &(<pvirtq_event_suppress *>ring.device_area).flags,
        RING_EVENT_FLAGS_ENABLE if wanted else RING_EVENT_FLAGS_DISABLE,
    )


cdef uint32_t packed_ring_start(const Ring *ring, uint32_t base) noexcept nogil:
    """The base where a ring starts: this one, unless it is 0, which front-ends name for two kinds of ring.

    After an odd number of laps both indices are 0 and so are both wrap counters. And user-mode Linux names 0 for a
    fresh ring, whose wrap counters are 1 (section 2.8.1). A lap leaves at least one descriptor with its USED flag set,
    by the device or, in the next lap, by the driver (section 2.8.6); a fresh ring has none.
    """
    cdef const pvirtq_desc *desc = <const pvirtq_desc *>ring.descriptor_area
    cdef uint32_t i
    if base == 0:
        for i in range(ring.size):
            if load_u16(&desc[i].flags) & VIRTQ_DESC_F_USED:
                return base
        return FRESH
    return base


cdef void reset_packed_ring(Ring *ring, uint32_t base) noexcept nogil:
    """Start where SET_VRING_BASE says: bits 0-14 available index, 15 its wrap counter, 16-30 used index, 31 its own.

    Some front-ends (DPDK's virtio-user) tell the lower half only. Then, as for every ring that was stopped with nothing
    in flight, used is where available is. While we poll, the driver need not kick.
    """
    if base >> 16 == 0 and base >> 15 & 1:
        base |= base << 16
    ring.take, ring.untake, ring.complete, ring.publish = take, untake, complete, publish
    ring.has_work, ring.want_kicks = has_work, want_kicks
    ring.next_avail, ring.avail_wrap = base & 0x7fff, base >> 15 & 1
    ring.next_used, ring.used_wrap = base >> 16 & 0x7fff, base >> 31
    ring.published = ring.next_used
    want_kicks(ring, False)


cdef void rewind_packed_ring(Ring *ring) noexcept nogil:
    """What is outstanding is available again, for the next take."""
    go_back(ring, ring.outstanding)


cdef uint32_t packed_ring_base(const Ring *ring) noexcept nogil:
    """What GET_VRING_BASE returns, as reset_packed_ring takes it."""
    return (
        ring.next_avail | <uint32_t>ring.avail_wrap << 15
        | <uint32_t>ring.next_used << 16 | <uint32_t>ring.used_wrap << 31
    )
