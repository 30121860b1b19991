"""The driver side of one packed virtqueue. Virtio 1.2, section 2.8.

The ring has no list of what is available: a descriptor's flags say it. A burst becomes visible with the flags of its
first descriptor, which are stored last. A slot's number is its buffer id. Sizes need not be powers of two.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport (
    full_fence, load_acquire_u16, load_u16, prefetch_write, store_release_u16, store_u16, store_u64,
)
from fastvhost.abi.virtio_packed cimport (
    RING_EVENT_FLAGS_DESC, RING_EVENT_FLAGS_DISABLE, RING_EVENT_FLAGS_ENABLE, RING_EVENT_WRAP_BIT, TAIL_FLAGS_SHIFT,
    TAIL_ID_SHIFT, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED, pvirtq_desc, pvirtq_event_suppress, tail_of,
)
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_DESC_BYTES, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, virtq_desc,
)
from fastvhost.driver.queue cimport (
    Completion, DriverQueue, PackedTemplate, Piece, QueueFormat, kick, know_batch, take_known,
    take_next, untake_known,
)

cdef enum:
    BOTH_FLAGS = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
    DESCRIPTORS_PER_LINE = 4


cdef void packed_format(QueueFormat *format, bint in_order) noexcept nogil:
    format.prepare, format.lay_chain = prepare, lay_chain
    format.take, format.untake, format.give = take, untake, give
    format.want_calls, format.has_used = want_calls, has_used
    if in_order:
        format.take, format.untake = take_in_order, untake_known


cdef void prepare(DriverQueue *queue) noexcept nogil:
    """An empty ring, whose driver polls and wants no notification (section 2.8.10)."""
    cdef pvirtq_event_suppress *driver = <pvirtq_event_suppress *>queue.driver_area
    queue.next_avail = queue.next_used = queue.n_given = queue.broken = queue.next_slot = queue.n_known = 0
    queue.avail_wrap = queue.used_wrap = True    # section 2.8.1
    store_u16(&driver.off_wrap, 0)
    store_u16(&driver.flags, RING_EVENT_FLAGS_DISABLE)


cdef void lay_chain(
    DriverQueue *queue, uint32_t slot, const Piece *pieces, uint32_t n_pieces, bint writable,
    virtq_desc *table, uint64_t table_guest_addr,
) noexcept nogil:
    """Note a slot's chain for the ring, or (table given) write it into an indirect one (section 2.8.7)."""
    cdef PackedTemplate *templates = &queue.templates[slot * queue.chain_length]
    cdef pvirtq_desc *packed_table = <pvirtq_desc *>table
    cdef uint16_t flags = VIRTQ_DESC_F_WRITE if writable else 0
    cdef uint16_t more
    cdef uint32_t i
    for i in range(n_pieces):
        if table != NULL:    # in a table, NEXT and the id are not used (section 2.8.7)
            packed_table[i].addr = pieces[i].guest_addr
            packed_table[i].len = pieces[i].bytes
            packed_table[i].id = 0
            packed_table[i].flags = flags
        else:
            more = VIRTQ_DESC_F_NEXT if i + 1 < n_pieces else 0
            templates[i].guest_addr = pieces[i].guest_addr
            templates[i].word = tail_of(pieces[i].bytes, slot, flags | more)
    if table != NULL:
        templates[0].guest_addr = table_guest_addr
        templates[0].word = tail_of(n_pieces * VIRTQ_DESC_BYTES, slot, VIRTQ_DESC_F_INDIRECT)


cdef uint32_t take(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil:
    cdef pvirtq_desc *desc = <pvirtq_desc *>queue.descriptor_area
    cdef uint32_t at = queue.next_used
    cdef uint32_t size = queue.size
    cdef uint32_t chain_length = queue.chain_length
    cdef uint32_t n_slots = queue.n_slots
    cdef uint16_t used = BOTH_FLAGS if queue.used_wrap else 0
    cdef uint32_t n = 0
    cdef uint32_t wrong = 0
    cdef uint32_t i
    if queue.broken:
        return 0
    limit = min(limit, <uint32_t>queue.n_given)
    if limit == 0 or (load_u16(&desc[at].flags) & BOTH_FLAGS) != used:
        return 0
    # Where one is used, a burst usually is; its descriptors are written again when they are given.
    for i in range(limit * chain_length // DESCRIPTORS_PER_LINE):
        prefetch_write(&desc[at + i * DESCRIPTORS_PER_LINE])
    # Pairs with the device's store of these flags, its last one to a used descriptor.
    while n < limit and (load_acquire_u16(&desc[at].flags) & BOTH_FLAGS) == used:
        done[n].slot = desc[at].id
        done[n].bytes = desc[at].len
        wrong |= done[n].slot >= n_slots
        n += 1
        at += chain_length    # one used descriptor stands for the whole chain (section 2.8.5)
        if at >= size:
            at -= size
            used ^= BOTH_FLAGS
    if wrong:
        queue.broken = 1
        return 0
    queue.next_used = <uint16_t>at
    queue.used_wrap = used != 0
    queue.n_given -= <uint16_t>n
    return n


cdef uint32_t take_in_order(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil:
    cdef pvirtq_desc *desc = <pvirtq_desc *>queue.descriptor_area
    cdef uint32_t at = queue.next_used
    cdef uint32_t size = queue.size
    cdef uint32_t chain_length = queue.chain_length
    cdef uint16_t used = BOTH_FLAGS if queue.used_wrap else 0
    cdef uint32_t n = take_known(queue, done, limit)
    cdef uint32_t batch = 1
    cdef uint32_t i
    if queue.broken or n == limit:
        return n
    limit = min(limit, n + queue.n_given)
    if n == limit or (load_u16(&desc[at].flags) & BOTH_FLAGS) != used:
        return n
    for i in range(limit * chain_length // DESCRIPTORS_PER_LINE):    # as above
        prefetch_write(&desc[at + i * DESCRIPTORS_PER_LINE])
    # Pairs with the device's store of these flags, its last one to a used descriptor.
    while n < limit and batch == 1 and (load_acquire_u16(&desc[at].flags) & BOTH_FLAGS) == used:
        if desc[at].id == queue.next_slot:
            take_next(queue, &done[n], desc[at].len)
            n += 1
        else:
            batch = know_batch(queue, desc[at].id, desc[at].len, queue.n_given)
            n += take_known(queue, done + n, limit - n)
        at += batch * chain_length
        if at >= size:
            at -= size
            used ^= BOTH_FLAGS
    if batch == 0:
        queue.broken = 1
        return 0
    queue.next_used = <uint16_t>at
    queue.used_wrap = used != 0
    return n


cdef void untake(DriverQueue *queue, uint32_t n) noexcept nogil:
    cdef uint32_t back = n * queue.chain_length
    if back > queue.next_used:
        queue.next_used += queue.size
        queue.used_wrap = not queue.used_wrap
    queue.next_used -= <uint16_t>back
    queue.n_given += <uint16_t>n


cdef void give(DriverQueue *queue, const Completion *slots, uint32_t n) noexcept nogil:
    cdef pvirtq_desc *first = &(<pvirtq_desc *>queue.descriptor_area)[queue.next_avail]
    cdef uint64_t first_word
    if n == 0:
        return
    first_word = give_singles(queue, slots, n) if queue.chain_length == 1 else give_chains(queue, slots, n)
    first.len = <uint32_t>first_word
    first.id = <uint16_t>(first_word >> TAIL_ID_SHIFT)
    # Pairs with the device's load of these flags: having seen them, it sees the whole burst.
    store_release_u16(&first.flags, <uint16_t>(first_word >> TAIL_FLAGS_SHIFT))
    queue.n_given += <uint16_t>n
    if queue.kick_fd >= 0:
        full_fence()    # first store the flags, then load what the device asks for (section 2.8.21)
        if wants_kick(queue, n * queue.chain_length):
            kick(queue)


cdef inline uint64_t available_flags(const DriverQueue *queue) noexcept nogil:
    return <uint64_t>(VIRTQ_DESC_F_AVAIL if queue.avail_wrap else VIRTQ_DESC_F_USED) << TAIL_FLAGS_SHIFT


cdef uint64_t give_singles(DriverQueue *queue, const Completion *slots, uint32_t n) noexcept nogil:
    """Write the descriptors of slots that take one each. Returns the word for the first, which is stored last."""
    cdef pvirtq_desc *desc = <pvirtq_desc *>queue.descriptor_area
    cdef uint64_t available = available_flags(queue)
    cdef uint64_t first_word = queue.templates[slots[0].slot].word | available
    cdef uint32_t at = queue.next_avail
    cdef uint32_t before_wrap = min(n, queue.size - at)
    if desc[at].addr != queue.templates[slots[0].slot].guest_addr:
        desc[at].addr = queue.templates[slots[0].slot].guest_addr
    write_run(desc + at + 1, queue.templates, slots + 1, before_wrap - 1, available)
    at += n
    if at >= queue.size:
        at -= queue.size
        queue.avail_wrap = not queue.avail_wrap
        write_run(desc, queue.templates, slots + before_wrap, at, available_flags(queue))
    queue.next_avail = <uint16_t>at
    return first_word


cdef inline void write_run(
    pvirtq_desc *desc, const PackedTemplate *templates, const Completion *slots, uint32_t n, uint64_t available
) noexcept nogil:
    """Write adjacent descriptors. A slot mostly returns to the same one, so its address is there already."""
    cdef const PackedTemplate *template
    cdef uint32_t i
    for i in range(n):
        template = &templates[slots[i].slot]
        if desc[i].addr != template.guest_addr:
            desc[i].addr = template.guest_addr
        store_u64(<uint64_t *>&desc[i].len, template.word | available)


cdef uint64_t give_chains(DriverQueue *queue, const Completion *slots, uint32_t n) noexcept nogil:
    """Write the descriptors of slots that take several each. Returns the word for the first, which is stored last."""
    cdef pvirtq_desc *desc = <pvirtq_desc *>queue.descriptor_area
    cdef const PackedTemplate *template
    cdef uint32_t at = queue.next_avail
    cdef uint64_t available = available_flags(queue)
    cdef uint64_t first_word = 0
    cdef uint32_t i, k
    for i in range(n):
        template = &queue.templates[slots[i].slot * queue.chain_length]
        for k in range(queue.chain_length):
            if desc[at].addr != template[k].guest_addr:
                desc[at].addr = template[k].guest_addr
            if i | k:
                store_u64(<uint64_t *>&desc[at].len, template[k].word | available)
            else:
                first_word = template[k].word | available
            at += 1
            if at == queue.size:
                at = 0
                queue.avail_wrap = not queue.avail_wrap
                available = available_flags(queue)
    queue.next_avail = <uint16_t>at
    return first_word


cdef bint wants_kick(DriverQueue *queue, uint32_t n_new) noexcept nogil:
    """Whether the device asked to be notified of one of the last n_new descriptors. Section 2.8.10."""
    cdef pvirtq_event_suppress *device = <pvirtq_event_suppress *>queue.device_area
    cdef uint16_t flags = load_u16(&device.flags)
    cdef uint16_t off_wrap = load_u16(&device.off_wrap)
    cdef uint16_t event = off_wrap & ((1 << RING_EVENT_WRAP_BIT) - 1)
    if flags != RING_EVENT_FLAGS_DESC or not queue.event_idx:
        return flags != RING_EVENT_FLAGS_DISABLE
    if off_wrap >> RING_EVENT_WRAP_BIT != queue.avail_wrap:
        event -= queue.size
    return <uint16_t>(queue.next_avail - event - 1) < n_new


cdef void want_calls(DriverQueue *queue, bint wanted) noexcept nogil:
    """Section 2.8.10. Before it sleeps, the caller makes a full fence and looks at the ring once more."""
    cdef pvirtq_event_suppress *driver = <pvirtq_event_suppress *>queue.driver_area
    if wanted and queue.event_idx:
        store_u16(&driver.off_wrap, queue.next_used | <uint16_t>(queue.used_wrap << RING_EVENT_WRAP_BIT))
        store_release_u16(&driver.flags, RING_EVENT_FLAGS_DESC)   # pairs with the device's look at flags, then off_wrap
    else:
        store_u16(&driver.flags, RING_EVENT_FLAGS_ENABLE if wanted else RING_EVENT_FLAGS_DISABLE)


cdef bint has_used(const DriverQueue *queue) noexcept nogil:
    cdef pvirtq_desc *desc = <pvirtq_desc *>queue.descriptor_area
    cdef uint16_t used = BOTH_FLAGS if queue.used_wrap else 0
    return (load_acquire_u16(&desc[queue.next_used].flags) & BOTH_FLAGS) == used and queue.n_given > queue.n_known
