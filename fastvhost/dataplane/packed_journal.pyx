"""Finds the position of a packed ring that another process served before. Virtio 1.2, sections 2.8.1, 2.8.6 to 2.8.8.

The journal may be about another driver's ring: where the guest was booted anew meanwhile, its ring can lie in the same
place. So the journal is used only where the flags in the ring do not contradict it. A ring that its driver has just
laid out has flags of 0, or of available descriptors of the first lap. In a ring that was in use, the descriptor where a
batch began has the flags of a used one, until the driver makes it available again in the next lap.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u16, store_release_u32
from fastvhost.abi.virtio_packed cimport VIRTQ_DESC_F_USED, pvirtq_desc
from fastvhost.dataplane.frame cimport Done
from fastvhost.dataplane.journal cimport JOURNALED, Batch, Journal, batch_of, batch_word
from fastvhost.dataplane.packed_marks cimport BOTH_FLAGS, SLOTS_SHIFT, is_available
from fastvhost.dataplane.packed_ring cimport packed_ring_base, reset_packed_ring
from fastvhost.dataplane.ring cimport RING_OK, Ring

JOURNAL_BYTES = sizeof(Journal)

cdef enum:
    INDEX = 0x7fff
    WRAP_SHIFT = 15


cdef inline uint16_t marks(const Ring *ring, uint32_t index) noexcept nogil:
    return load_acquire_u16(&(<pvirtq_desc *>ring.descriptor_area)[index].flags)


cdef inline bint used_since(const Ring *ring, uint16_t place) noexcept nogil:
    """Whether its descriptor was used in this lap, or is available again in the next, which has the same USED flag."""
    return (marks(ring, place & INDEX) & VIRTQ_DESC_F_USED != 0) == (place >> WRAP_SHIFT != 0)


cdef inline bint is_used(const Ring *ring, uint16_t place) noexcept nogil:
    return marks(ring, place & INDEX) & BOTH_FLAGS == (BOTH_FLAGS if place >> WRAP_SHIFT else 0)


cdef bint was_in_use(const Ring *ring) noexcept nogil:
    """Whether any descriptor was used, or is available in a later lap than the first: else no USED flag is set."""
    cdef uint32_t i
    for i in range(ring.size):
        if marks(ring, i) & VIRTQ_DESC_F_USED:
            return True
    return False


cdef FoundPlace find_place(const Ring *ring, const Journal *journal) noexcept nogil:
    """The position of a ring, according to its journal; `believed` is False where the ring's flags contradict that.

    A batch that was noted but not shown to the driver is written now. ring: placed, of this size, not live.
    """
    cdef Batch batch = batch_of(journal.batch)
    cdef FoundPlace found = FoundPlace(False, batch.behind, batch.before, batch.has_before)
    cdef bint unfinished = False
    if batch.first & INDEX >= ring.size or batch.behind & INDEX >= ring.size or batch.before & INDEX >= ring.size:
        return found
    if batch.n:
        unfinished = not used_since(ring, batch.first)
        if not unfinished:
            if not ring.in_batches and not all_used(ring, journal, &batch):
                return found
            found.used, found.has_used = batch.first, True
        elif not is_available(marks(ring, batch.first & INDEX), batch.first >> WRAP_SHIFT != 0):
            return found
        elif not batch.has_before:
            # The very first batch: a ring that was just laid out has the same flags, so nothing is written again.
            found.place = batch.first
            unfinished = False
    if found.has_used and not used_since(ring, found.used):
        return found
    if not unfinished and is_used(ring, found.place):
        return found
    # In laps with wrap bit 0 a used descriptor has flags of 0, as in a fresh ring. But then descriptors from this place
    # on still have the USED flag of the lap before.
    if not found.place >> WRAP_SHIFT and not was_in_use(ring):
        return found
    if unfinished:
        if not finish(ring, journal, &batch):
            return found
        found.used, found.has_used = batch.first, True
    found.believed = True
    return found


cdef bint all_used(const Ring *ring, const Journal *journal, const Batch *batch) noexcept nogil:
    """Whether the first descriptor of each chain of a batch has the flags of a used one, also across the ring's end."""
    cdef uint32_t i, at = batch.first & INDEX, wrap = batch.first >> WRAP_SHIFT
    for i in range(min(<uint32_t>batch.n, <uint32_t>JOURNALED)):
        if not used_since(ring, <uint16_t>(at | wrap << WRAP_SHIFT)):
            return False
        at += journal.done[i].ticket >> SLOTS_SHIFT
        if at >= ring.size:
            at -= ring.size
            wrap ^= 1
        if at >= ring.size:
            return False
    return True


cdef bint finish(const Ring *ring, const Journal *journal, const Batch *batch) noexcept nogil:
    """Write a batch that was noted, from its start, and show it to the driver.

    False: it does not fit into this ring.
    """
    cdef Ring again = ring[0]
    cdef uint32_t i, slots = 0
    cdef const Done *done = &journal.done[0]
    if batch.n > JOURNALED:
        return False
    for i in range(batch.n):
        slots += done[i].ticket >> SLOTS_SHIFT
    if slots > ring.size:
        return False
    reset_packed_ring(&again, batch.first | <uint32_t>batch.first << 16)
    again.journal, again.outstanding, again.staged = NULL, <uint16_t>slots, 0
    again.status = RING_OK
    again.complete(&again, done, batch.n)
    if again.status != RING_OK or packed_ring_base(&again) >> 16 != batch.behind:
        return False
    again.publish(&again)
    return True


cdef void begin_journal(
    Journal *journal, uint64_t descriptor_user_addr, uint64_t driver_user_addr, uint64_t device_user_addr,
    uint32_t size, uint32_t base, const FoundPlace *start
) noexcept nogil:
    """Begin the journal of a ring that starts at this place. size is 0 meanwhile: the journal is not valid."""
    store_release_u32(&journal.size, 0)
    journal.descriptor_user_addr, journal.driver_user_addr = descriptor_user_addr, driver_user_addr
    journal.device_user_addr, journal.base = device_user_addr, base
    journal.batch = batch_word(Batch(start.used, start.place, start.place, 0, start.has_used))
    store_release_u32(&journal.size, size)
