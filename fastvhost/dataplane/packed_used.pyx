"""What the device writes into a packed virtqueue: used descriptors, and whether to notify. Virtio 1.2, section 2.8.

A descriptor is used when its AVAIL and USED flags both equal the device's wrap counter (section 2.8.1). Where the ring
has a journal, each batch is noted there before it is written.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport (
    full_fence,
    load_acquire_u16,
    load_u16,
    load_u64,
    store_release_u16,
    store_u64,
)
from fastvhost.abi.virtio_packed cimport (
    RING_EVENT_FLAGS_DESC,
    RING_EVENT_FLAGS_DISABLE,
    RING_EVENT_WRAP_BIT,
    TAIL_FLAGS_SHIFT,
    pvirtq_desc,
    pvirtq_event_suppress,
    tail_of,
)
from fastvhost.dataplane.frame cimport Done
from fastvhost.dataplane.journal cimport JOURNALED, note_batch
from fastvhost.dataplane.packed_marks cimport BOTH_FLAGS, SLOTS_SHIFT, check_counts, place_of
from fastvhost.dataplane.ring cimport RING_MISCOUNTED, Ring


cdef void complete(Ring *ring, const Done *done, uint32_t n) noexcept nogil:
    """One used descriptor a chain, at the place of its first (section 2.8.5). The driver looks at them in order, so
    the flags of the first one staged are held back: publish stores them and with that shows them all.

    `limit` is the nearer one of two ends, the ring's and that of the outstanding descriptors: so that one comparison a
    chain is enough.
    """
    cdef pvirtq_desc *desc = <pvirtq_desc *>ring.descriptor_area
    cdef uint32_t first = ring.next_used, end = first + ring.outstanding, limit = min(<uint32_t>ring.size, end)
    cdef uint32_t at = first, i
    cdef uint64_t flags = used_flags(ring, ring.used_wrap)
    if n == 0:
        return
    if n > ring.outstanding:
        ring.status = RING_MISCOUNTED
        return
    if ring.journal != NULL:
        note(ring, done, n)
    if ring.staged == 0:
        ring.first_flags = flags >> TAIL_FLAGS_SHIFT
        flags = load_u64(<const uint64_t *>&desc[at].len) & tail_of(0, 0, 0xffff)
    if ring.in_batches:
        # section 2.8.8: one used descriptor names the last buffer, and the driver skips the others
        write_used(&desc[at], &done[n - 1], flags)
        for i in range(n):
            at += done[i].ticket >> SLOTS_SHIFT
    else:
        write_used(&desc[at], &done[0], flags)
        at += done[0].ticket >> SLOTS_SHIFT
        flags = used_flags(ring, ring.used_wrap)
        for i in range(1, n):
            if at >= limit:
                if at >= end:
                    break
                desc -= ring.size
                limit = end
                flags = used_flags(ring, not ring.used_wrap)
            write_used(&desc[at], &done[i], flags)
            at += done[i].ticket >> SLOTS_SHIFT
    if at > end or at - first < n:
        ring.status = RING_MISCOUNTED
    else:
        step_on(ring, at - first)


cdef void note(Ring *ring, const Done *done, uint32_t n) noexcept nogil:
    """Note what is about to be written.

    A journal holds one batch, of up to JOURNALED entries. Where a batch is larger, or a second one comes before a
    publish, this ring has no journal from then on.
    """
    cdef uint32_t i, behind = ring.next_used
    cdef bint wrap = ring.used_wrap
    if ring.staged or n > JOURNALED:
        ring.journal.size = 0
        ring.journal = NULL
        return
    if n == ring.outstanding:   # nearly always: all that is outstanding, one descriptor each
        behind += n
    else:
        for i in range(n):
            behind += done[i].ticket >> SLOTS_SHIFT
    if behind >= ring.size:
        behind -= ring.size
        wrap = not wrap
    note_batch(ring.journal, place_of(ring.next_used, ring.used_wrap), place_of(behind, wrap), done, n)


cdef inline void write_used(pvirtq_desc *desc, const Done *done, uint64_t flags) noexcept nogil:
    store_u64(<uint64_t *>&desc.len, tail_of(done.bytes, <uint16_t>done.ticket, 0) | flags)


cdef inline uint64_t used_flags(const Ring *ring, bint wrap) noexcept nogil:
    return tail_of(0, 0, ring.direction | (BOTH_FLAGS if wrap else 0))


cdef inline void step_on(Ring *ring, uint32_t slots) noexcept nogil:
    """This many more descriptors are staged."""
    cdef uint32_t at = ring.next_used + slots
    if at >= ring.size:
        at -= ring.size
        ring.used_wrap = not ring.used_wrap
    ring.next_used = at
    ring.staged += slots
    ring.outstanding -= slots
    check_counts(ring)


cdef bint publish(Ring *ring) noexcept nogil:
    """One store of the first staged flags; then whether to notify. Section 2.8.10.

    The order of stores, fence and loads, and why no notification is missed, is as in split_ring's publish; these flags
    take the place of the index. The driver stores off_wrap before its flags, so we load them the other way round.

    With EVENT_IDX the driver names one descriptor by offset and wrap counter, and we notify if that one is among those
    staged. Where its wrap counter is not ours, it lies a lap back: the ring's size is subtracted. Then, as for a split
    ring, the distance from the one after it to next_used is compared with the number of staged ones.
    """
    cdef pvirtq_desc *desc = <pvirtq_desc *>ring.descriptor_area
    cdef pvirtq_event_suppress *driver = <pvirtq_event_suppress *>ring.driver_area
    cdef uint16_t staged = ring.staged, flags, off_wrap, event
    if staged == 0:
        return False
    store_release_u16(&desc[ring.published].flags, ring.first_flags)  # pairs with the driver's read of these flags
    ring.published = ring.next_used
    ring.staged = 0
    full_fence()  # pairs with the driver's fence, between what it asks for and its last look at the ring
    flags = load_acquire_u16(&driver.flags)  # pairs with the driver's store of them, after off_wrap
    if flags != RING_EVENT_FLAGS_DESC or not ring.event_idx:
        return flags != RING_EVENT_FLAGS_DISABLE
    off_wrap = load_u16(&driver.off_wrap)
    event = off_wrap & ((1 << RING_EVENT_WRAP_BIT) - 1)
    if (off_wrap >> RING_EVENT_WRAP_BIT) != ring.used_wrap:
        event -= ring.size
    return <uint16_t>(ring.next_used - event - 1) < staged
