"""The device side of one split virtqueue. Virtio 1.2, section 2.7. The contract is ring.pxd's."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastvhost.abi.shared_memory cimport (
    full_fence,
    load_acquire_u16,
    load_u16,
    prefetch_read,
    read_once_desc,
    store_release_u16,
    store_u16,
)
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC_BYTES,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    VIRTQ_USED_F_NO_NOTIFY,
    virtq_avail,
    virtq_desc,
    virtq_used,
    virtq_used_elem,
)
from fastvhost.dataplane.debug cimport DEBUG, check
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Chain, Done, Segment
from fastvhost.dataplane.guest_memory cimport Region, in_region
from fastvhost.dataplane.ring cimport (
    RING_ADDRESS_OUTSIDE_MEMORY,
    RING_AVAIL_JUMP,
    RING_HEAD_BEYOND_QUEUE,
    RING_LOOP,
    RING_MISCOUNTED,
    RING_NEXT_BEYOND_TABLE,
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


cdef uint32_t take(
    Ring *ring, Chain *chains, uint32_t most, Segment *segments, uint32_t *n_segments
) noexcept nogil:
    cdef virtq_desc *desc = <virtq_desc *>ring.descriptor_area
    cdef virtq_avail *avail = <virtq_avail *>ring.driver_area
    cdef uint16_t size = ring.size, mask = size - 1, first = ring.next_avail, head
    cdef uint32_t n = <uint16_t>(ring.known_avail - first), i, plain, limit = 0, before = 0, in_pieces = 0
    cdef virtq_desc d
    cdef int status = RING_OK

    if ring.status != RING_OK:
        return 0
    if n < most:    # else the known entries fill the burst, and the line of the index stays with the driver's core
        ring.known_avail = load_acquire_u16(&avail.idx)  # pairs with the driver's store of avail.idx
        n = <uint16_t>(ring.known_avail - first)
    if n + ring.outstanding > size:
        ring.status = RING_AVAIL_JUMP
        return 0
    n = min(n, most)

    for i in range(n):
        head = load_u16(&avail.ring[<uint16_t>(first + i) & mask])
        if head >= size:
            status = RING_HEAD_BEYOND_QUEUE
            n = i
            break
        chains[i].ticket = head
        prefetch_read(&desc[head])

    i = take_plain(ring, chains, n)
    if i < n:
        before = n_segments[0]
        limit = places_for(before, i) if i else <uint32_t>MAX_SEGMENTS
    while i < n:
        d = read_once_desc(&desc[chains[i].ticket])
        if not walk_hot(ring, d, &chains[i], segments, n_segments, limit):
            status = walk(ring, d, &chains[i], segments, n_segments, limit)
            if status != RING_OK:
                n = i
                break
        in_pieces += chains[i].n_segments != 1
        i += 1
        limit = places_for(before, i - in_pieces)
        n = min(n, i + limit - n_segments[0]) if n_segments[0] < limit else i
        plain = take_plain(ring, &chains[i], n - i)
        if plain:
            i += plain
            limit = places_for(before, i - in_pieces)
    if n == 0 and status != RING_OK:
        stop_taking(ring, status, n_segments[0])
    ring.next_avail += n
    ring.outstanding += n
    if DEBUG:
        check_chains(ring, chains, n, segments, n_segments[0])
    check_counts(ring)
    return n


cdef inline void check_counts(const Ring *ring) noexcept nogil:
    check(ring.outstanding <= ring.size, "split ring: no more is outstanding than it has entries")
    check(<uint16_t>(ring.next_used - ring.published) <= ring.size, "split ring: no more is staged than it has entries")
    check(
        (<uint16_t>(ring.known_avail - ring.next_avail) + ring.outstanding <= ring.size) | (ring.status != RING_OK),
        "split ring: no more is available and outstanding than it has entries",
    )


cdef uint32_t take_plain(const Ring *ring, Chain *chains, uint32_t n) noexcept nogil:
    """Take chains of one descriptor that lie in the same memory region as the chain before: nearly all of them do.

    Returns how many; the next one is something else.
    """
    cdef const virtq_desc *desc = <const virtq_desc *>ring.descriptor_area
    cdef Region hot = ring.table.regions[ring.hot_region]
    cdef uint16_t direction = ring.direction
    cdef virtq_desc d
    cdef uint8_t *data
    cdef uint32_t i
    for i in range(n):
        d = read_once_desc(&desc[chains[i].ticket])
        data = in_region(&hot, d.addr, d.len)
        if d.flags != direction or data == NULL:
            return i
        if not direction:
            prefetch_read(data)
            prefetch_read(data + 64)
        chains[i].data = data
        chains[i].bytes = d.len
        chains[i].n_segments, chains[i].head = 1, 0
    return n


cdef bint walk_hot(
    Ring *ring, virtq_desc d, Chain *chain, Segment *segments, uint32_t *n_segments, uint32_t places
) noexcept nogil:
    """Follow one chain, or its indirect table, all of it in one region and nothing odd in it.

    False: walk() is to follow it again, from the start. Nothing that was read here is used then, so it does not matter
    that the driver may have changed it meanwhile.
    """
    cdef const Region *hot = &ring.table.regions[ring.hot_region]
    cdef const virtq_desc *table = <const virtq_desc *>ring.descriptor_area
    cdef uint32_t first = n_segments[0], descriptors = ring.size, seen = 0
    cdef uint64_t total = 0
    if d.flags & VIRTQ_DESC_F_INDIRECT:
        table = <const virtq_desc *>in_region(hot, d.addr, d.len)
        if table == NULL or check_indirect(ring, &d, False) != RING_OK:
            return False
        descriptors = d.len // VIRTQ_DESC_BYTES
        d = read_once_desc(table)
    while True:
        seen += 1
        if (
            d.flags & (VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE) != ring.direction
            or not add_hot_segment(hot, d.addr, d.len, segments, n_segments, places)
        ):
            break
        prefetch_read(segments[n_segments[0] - 1].data)
        total += d.len
        if not d.flags & VIRTQ_DESC_F_NEXT:
            finish_chain(chain, segments, first, n_segments, total)
            return True
        if d.next >= descriptors or seen == descriptors:
            break
        d = read_once_desc(&table[d.next])
    n_segments[0] = first
    return False


cdef int walk(
    Ring *ring, virtq_desc d, Chain *chain, Segment *segments, uint32_t *n_segments, uint32_t places
) noexcept nogil:
    """Follow one chain, through an indirect table if it ends in one. Sections 2.7.5 and 2.7.5.3."""
    cdef virtq_desc *desc = <virtq_desc *>ring.descriptor_area
    cdef uint32_t first = n_segments[0], descriptors = ring.size, seen = 0
    cdef uint64_t total = 0, table = 0
    cdef bint indirect = False
    cdef int status = RING_OK

    while True:
        if d.flags & VIRTQ_DESC_F_INDIRECT:
            status = check_indirect(ring, &d, indirect)
            if status != RING_OK:
                break
            indirect, table, descriptors, seen, d.next = True, d.addr, d.len // VIRTQ_DESC_BYTES, 0, 0
        else:
            if (d.flags & VIRTQ_DESC_F_WRITE) != ring.direction:
                status = RING_READABLE_IN_RECEIVEQ if ring.direction else RING_WRITABLE_IN_TRANSMITQ
                break
            total += d.len
            status = add_segments(ring, d.addr, d.len, segments, n_segments, places)
            if status != RING_OK or not d.flags & VIRTQ_DESC_F_NEXT:
                break
            seen += 1
            if d.next >= descriptors:
                status = RING_NEXT_BEYOND_TABLE
                break
            if seen >= descriptors:
                status = RING_LOOP
                break
        if not indirect:
            d = read_once_desc(&desc[d.next])
        elif not read_desc_anywhere(ring.table, table + <uint64_t>d.next * VIRTQ_DESC_BYTES, &d):
            status = RING_ADDRESS_OUTSIDE_MEMORY
            break

    if status != RING_OK:
        n_segments[0] = first
        return status
    finish_chain(chain, segments, first, n_segments, total)
    return RING_OK


cdef void untake(Ring *ring, const Chain *chains, uint32_t n) noexcept nogil:
    if n > ring.outstanding:
        ring.status = RING_MISCOUNTED
        return
    ring.next_avail -= n
    ring.outstanding -= n
    check_counts(ring)


cdef void complete(Ring *ring, const Done *done, uint32_t n) noexcept nogil:
    """Section 2.7.8: an element is the chain's head and the bytes written, which is what Done looks like.

    A batch (section 2.7.9) is one element in the place of its first chain; it names the head of its last chain, and the
    elements of the others are not written.
    """
    cdef virtq_used *used = <virtq_used *>ring.device_area
    cdef uint32_t at = ring.next_used & (ring.size - 1), to_end = ring.size - at
    if n > ring.outstanding:
        ring.status = RING_MISCOUNTED
        return
    if ring.in_batches and n:
        put(&used.ring[at], &done[n - 1], 1)
    elif n <= to_end:
        put(&used.ring[at], done, n)
    else:
        put(&used.ring[at], done, to_end)
        put(&used.ring[0], done + to_end, n - to_end)
    ring.next_used += n
    ring.outstanding -= n
    check_counts(ring)


cdef inline void put(virtq_used_elem *at, const Done *done, uint32_t n) noexcept nogil:
    """Write elements, unless they are there already: a driver that uses its buffers round and round, for frames of one
    length, finds the same ones lap after lap, and their cache lines stay with its core."""
    if memcmp(at, done, n * sizeof(Done)):
        memcpy(at, done, n * sizeof(Done))


cdef bint publish(Ring *ring) noexcept nogil:
    """One store of the used index; then whether to notify. Section 2.7.7.2.

    No notification is missed:
    1. We store the index with release, so that a driver that sees it sees the used elements as well.
    2. We make a full fence.
    3. We load what the driver asked for.
    A driver that wants to sleep stores what it asks for, makes a full fence, and loads the index once more. Where two
    parties each store, fence, and then load what the other one stores, at least one sees the other's store: either we
    see that the driver asked, or it sees the new index and does not sleep. Without our fence the CPU might load before
    its store is visible, and neither would see the other's store.

    Which index the driver waits for: with EVENT_IDX, used_event names an entry, and we notify if that one is among the
    entries published now, old <= used_event < new. Indices wrap at 65536, so distances are compared: the one from
    used_event + 1 to new is less than the one from old to new.
    """
    cdef virtq_used *used = <virtq_used *>ring.device_area
    cdef virtq_avail *avail = <virtq_avail *>ring.driver_area
    cdef uint16_t new = ring.next_used, old = ring.published
    if new == old:
        return False
    store_release_u16(&used.idx, new)  # pairs with the driver's read of used.idx
    ring.published = new
    full_fence()  # the index is visible before we look whether a call is wanted; pairs with the driver's fence
    if ring.event_idx:
        # used_event lies after the entries of the available ring
        return <uint16_t>(new - load_u16(&avail.ring[ring.size]) - 1) < <uint16_t>(new - old)
    return not load_u16(&avail.flags) & VIRTQ_AVAIL_F_NO_INTERRUPT


cdef bint has_work(const Ring *ring) noexcept nogil:
    return load_u16(&(<virtq_avail *>ring.driver_area).idx) != ring.next_avail


cdef void want_kicks(Ring *ring, bint wanted) noexcept nogil:
    """Section 2.7.10. avail_event, after the entries of the used ring, is the index of the next entry to kick for.

    Not wanted: the entry before next_avail, which the driver reaches again only after 65535 others.
    """
    cdef virtq_used *used = <virtq_used *>ring.device_area
    if ring.event_idx:
        store_u16(&used.flags, 0)
        store_u16(<uint16_t *>&used.ring[ring.size], ring.next_avail if wanted else ring.next_avail - 1)
    else:
        store_u16(&used.flags, 0 if wanted else VIRTQ_USED_F_NO_NOTIFY)


cdef void reset_split_ring(Ring *ring, uint32_t base) noexcept nogil:
    """Start at this available index. While we poll, the driver need not kick."""
    cdef virtq_used *used = <virtq_used *>ring.device_area
    ring.take, ring.untake, ring.complete, ring.publish = take, untake, complete, publish
    ring.has_work, ring.want_kicks = has_work, want_kicks
    ring.next_avail = ring.known_avail = base
    ring.next_used = ring.published = load_u16(&used.idx)
    want_kicks(ring, False)


cdef void rewind_split_ring(Ring *ring) noexcept nogil:
    """What is outstanding is available again, for the next take."""
    ring.next_avail -= ring.outstanding
    ring.outstanding = 0


cdef uint32_t split_ring_base(const Ring *ring) noexcept nogil:
    """What GET_VRING_BASE returns: the next available index."""
    return ring.next_avail
