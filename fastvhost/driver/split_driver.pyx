"""The driver side of one split virtqueue. Virtio 1.2, section 2.7.

Descriptors are laid once and then only recycled, and the available ring's entries are not written when they already say
the right thing: both stay shared between the two cores' caches, and the driver costs little more than it must.
The device is trusted with nothing that could make this side touch memory outside its own.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u16, load_u16, store_release_u16, store_u16
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_DESC_BYTES,
    VIRTQ_USED_F_NO_NOTIFY, virtq_avail, virtq_desc, virtq_used, virtq_used_elem,
)
from fastvhost.driver.queue cimport (
    Completion, DriverQueue, Piece, QueueFormat, kick, know_batch, take_known, take_next, untake_known,
)


cdef void split_format(QueueFormat *format, bint in_order) noexcept nogil:
    format.prepare, format.lay_chain = prepare, lay_chain
    format.take, format.untake, format.give = take, untake, give
    format.want_calls, format.has_used = want_calls, has_used
    if in_order:
        format.take, format.untake = take_in_order, untake_known


cdef inline virtq_avail *avail_of(const DriverQueue *queue) noexcept nogil:
    return <virtq_avail *>queue.driver_area


cdef inline virtq_used *used_of(const DriverQueue *queue) noexcept nogil:
    return <virtq_used *>queue.device_area


cdef void prepare(DriverQueue *queue) noexcept nogil:
    """An empty ring, whose driver polls and wants no notification (sections 2.7.6 to 2.7.10)."""
    queue.next_avail = 0
    queue.next_used = 0
    queue.n_given = 0
    queue.next_slot = queue.n_known = 0
    queue.broken = 0
    store_u16(&avail_of(queue).idx, 0)
    store_u16(&used_of(queue).idx, 0)
    store_u16(&used_of(queue).flags, 0)
    if queue.event_idx:
        # flags must be 0 then. used_event stays at 65535: that asks for one notification in 65536 (section 2.7.7.1).
        store_u16(&avail_of(queue).flags, 0)
        store_u16(&avail_of(queue).ring[queue.size], 0xffff)
    else:
        store_u16(&avail_of(queue).flags, VIRTQ_AVAIL_F_NO_INTERRUPT)


cdef void lay_chain(
    DriverQueue *queue, uint32_t slot, const Piece *pieces, uint32_t n_pieces, bint writable,
    virtq_desc *table, uint64_t table_guest_addr,
) noexcept nogil:
    """Write a slot's chain, into the ring's own table or (table given) into an indirect one (section 2.7.5.3)."""
    cdef uint32_t head = slot << queue.shift
    cdef uint32_t first = 0 if table != NULL else head
    cdef uint16_t flags = VIRTQ_DESC_F_WRITE if writable else 0
    cdef virtq_desc *ring = <virtq_desc *>queue.descriptor_area
    cdef virtq_desc *desc
    cdef uint32_t i
    for i in range(n_pieces):
        desc = &table[i] if table != NULL else &ring[head + i]
        desc.addr = pieces[i].guest_addr
        desc.len = pieces[i].bytes
        desc.flags = flags
        desc.next = 0
        if i + 1 < n_pieces:
            desc.flags |= VIRTQ_DESC_F_NEXT
            desc.next = <uint16_t>(first + i + 1)
    if table != NULL:
        desc = &ring[head]
        desc.addr = table_guest_addr
        desc.len = n_pieces * VIRTQ_DESC_BYTES
        desc.flags = VIRTQ_DESC_F_INDIRECT
        desc.next = 0


cdef uint32_t take(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil:
    # Pairs with the device's release store of used.idx.
    cdef uint32_t n = <uint16_t>(load_acquire_u16(&used_of(queue).idx) - queue.next_used)
    cdef uint32_t at = queue.next_used & (queue.size - 1)
    cdef uint32_t before_wrap
    cdef bint good
    if n == 0 or queue.broken:
        return 0
    if n > queue.n_given:
        queue.broken = 1
        return 0
    n = min(n, limit)
    before_wrap = min(n, <uint32_t>(queue.size - at))
    good = read_used(queue, at, done, before_wrap)
    if before_wrap < n:
        good &= read_used(queue, 0, done + before_wrap, n - before_wrap)
    if not good:
        queue.broken = 1
        return 0
    queue.next_used += <uint16_t>n
    queue.n_given -= <uint16_t>n
    return n


cdef uint32_t take_in_order(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil:
    # Pairs with the device's release store of used.idx.
    cdef uint32_t n_new = <uint16_t>(load_acquire_u16(&used_of(queue).idx) - queue.next_used)
    cdef const virtq_used_elem *element
    cdef uint32_t inside_chain = (1 << queue.shift) - 1
    cdef uint32_t n = take_known(queue, done, limit)
    cdef uint32_t batch = 1
    cdef uint32_t head
    if queue.broken:
        return n
    if n_new > queue.n_given:
        queue.broken = 1
        return 0
    while n < limit and n_new > 0 and batch == 1:
        element = &used_of(queue).ring[queue.next_used & (queue.size - 1)]
        head = element.id
        if head == <uint32_t>queue.next_slot << queue.shift:
            take_next(queue, &done[n], element.len)
            n += 1
        else:
            batch = 0 if head & inside_chain else know_batch(queue, head >> queue.shift, element.len, n_new)
            n += take_known(queue, done + n, limit - n)
        queue.next_used += <uint16_t>batch
        n_new -= batch
    if batch == 0:
        queue.broken = 1
        return 0
    return n


cdef bint read_used(const DriverQueue *queue, uint32_t at, Completion *done, uint32_t n) noexcept nogil:
    """Read adjacent entries of the used ring, as slots. False: one of them names no slot."""
    cdef const virtq_used_elem *element = &used_of(queue).ring[at]
    cdef uint32_t shift = queue.shift
    cdef uint32_t inside_chain = (1 << shift) - 1
    cdef uint32_t n_slots = queue.n_slots
    cdef uint32_t wrong = 0
    cdef uint32_t head, i
    for i in range(n):
        head = element[i].id
        done[i].slot = head >> shift
        done[i].bytes = element[i].len
        wrong |= (head & inside_chain) | (head >> shift >= n_slots)
    return wrong == 0


cdef void untake(DriverQueue *queue, uint32_t n) noexcept nogil:
    queue.next_used -= <uint16_t>n
    queue.n_given += <uint16_t>n


cdef void give(DriverQueue *queue, const Completion *slots, uint32_t n) noexcept nogil:
    cdef uint16_t before = queue.next_avail
    cdef uint32_t at = before & (queue.size - 1)
    cdef uint32_t before_wrap = min(n, <uint32_t>(queue.size - at))
    write_avail(queue, at, slots, before_wrap)
    write_avail(queue, 0, slots + before_wrap, n - before_wrap)
    queue.next_avail = before + <uint16_t>n
    queue.n_given += <uint16_t>n
    store_release_u16(&avail_of(queue).idx, queue.next_avail)   # pairs with the device's acquire load of avail.idx
    if queue.kick_fd >= 0:
        full_fence()    # first store the index, then load what the device asks for (section 2.7.13.4.1)
        if wants_kick(queue, before):
            kick(queue)


cdef void write_avail(DriverQueue *queue, uint32_t at, const Completion *slots, uint32_t n) noexcept nogil:
    """Write adjacent entries of the available ring."""
    cdef uint16_t *entry = &avail_of(queue).ring[at]
    cdef uint32_t shift = queue.shift
    cdef uint16_t head
    cdef uint32_t i
    for i in range(n):
        head = <uint16_t>(slots[i].slot << shift)
        if entry[i] != head:
            entry[i] = head


cdef inline bint wants_kick(DriverQueue *queue, uint16_t before) noexcept nogil:
    """Whether the device asked to be notified of an index in (before, next_avail]. Section 2.7.10."""
    cdef uint16_t *avail_event
    if not queue.event_idx:
        return not load_u16(&used_of(queue).flags) & VIRTQ_USED_F_NO_NOTIFY
    avail_event = <uint16_t *>&used_of(queue).ring[queue.size]
    return <uint16_t>(queue.next_avail - load_u16(avail_event) - 1) < <uint16_t>(queue.next_avail - before)


cdef void want_calls(DriverQueue *queue, bint wanted) noexcept nogil:
    """Section 2.7.7. Before it sleeps, the caller makes a full fence and looks at the ring once more."""
    if queue.event_idx:
        # Ask for the next entry; or for the one before it, which comes only after 65535 others.
        store_u16(&avail_of(queue).ring[queue.size], queue.next_used if wanted else queue.next_used - 1)
    else:
        store_u16(&avail_of(queue).flags, 0 if wanted else VIRTQ_AVAIL_F_NO_INTERRUPT)


cdef bint has_used(const DriverQueue *queue) noexcept nogil:
    return load_acquire_u16(&used_of(queue).idx) != queue.next_used
