"""What control does to the forwarding table. See mac_change.pxd."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u64, store_release_u32, store_release_u64
from fastvhost.dataplane.mac_learn cimport lock, occupy, place_for, renew_generation, unlock, vacate
from fastvhost.dataplane.mac_table cimport (
    ENTRY_STATIC, KEY_ADDRESS, NOBODY, NOT_FLUSHED, PLACES, MacEntry, MacTable, answers, entry_of, port_of,
)

cdef enum:
    LAST_FLUSH = 0xffff        # before numbers of flushes begin again


# Static entries


cdef bint put_static(MacTable *table, uint64_t key, uint32_t port) noexcept nogil:
    """A static entry, in place of a learned one. False: only static ones are in both buckets."""
    cdef MacEntry *entry
    cdef uint64_t value
    lock(table)
    value = ENTRY_STATIC | <uint64_t>port << 32 | table.now
    entry = entry_of(table, key)
    if entry == NULL:
        entry = place_for(table, key, NOBODY)
        if entry != NULL:
            occupy(table, entry, key, value)
    else:
        if not entry.value & ENTRY_STATIC:
            table.ports[port_of(entry.value)].learned -= 1
        store_release_u64(&entry.value, value)
    renew_generation(table)
    unlock(table)
    return entry != NULL


cdef bint drop_static(MacTable *table, uint64_t key) noexcept nogil:
    """False: there is none."""
    cdef MacEntry *entry
    cdef bint there
    lock(table)
    entry = entry_of(table, key)
    there = entry != NULL and entry.value & ENTRY_STATIC != 0
    if there:
        vacate(table, entry)
    unlock(table)
    return there


# Ticks, flushes and sweeps, one thread at a time


cdef void set_tick(MacTable *table, uint64_t seconds) noexcept nogil:
    """Answers that callers keep end with each tick, so that no entry outlives its age in them."""
    lock(table)
    store_release_u32(&table.now, table.now & <uint32_t>0xffff0000 | <uint16_t>seconds)
    renew_generation(table)
    unlock(table)


cdef void begin_flush(MacTable *table, uint64_t what) noexcept nogil:
    """From now on nothing of it answers that is not learned again. what: a key with the VLAN, a value with the port."""
    if table.now >> 16 == LAST_FLUSH:
        number_afresh(table)
    lock(table)
    store_release_u64(&table.flushing, what)   # before `now`: pairs with answers
    store_release_u32(&table.now, table.now + (<uint32_t>1 << 16))
    renew_generation(table)
    unlock(table)


cdef void end_flush(MacTable *table) noexcept nogil:
    """After a sweep of the whole table."""
    store_release_u64(&table.flushing, NOT_FLUSHED)


cdef void number_afresh(MacTable *table) noexcept nogil:
    """No flush is in progress, so numbers mean nothing. To flush 1, no entry may seem to be used after it."""
    cdef uint64_t b
    cdef uint32_t i
    cdef MacEntry *entry
    lock(table)
    store_release_u32(&table.now, <uint16_t>table.now)
    unlock(table)
    for b in range(table.mask + 1):
        for i in range(<uint32_t>PLACES):
            entry = &table.buckets[b].places[i]
            if <uint16_t>(load_acquire_u64(&entry.value) >> 16):
                lock(table)
                store_release_u64(&entry.value, entry.value & ~<uint64_t>0xffff0000)
                unlock(table)


cdef uint64_t sweep(
    MacTable *table, uint64_t first, uint64_t n_buckets, Doomed doomed, uint64_t what,
) noexcept nogil:
    """Remove the doomed entries of so many buckets. Only for those the lock is taken. Returns how many they were."""
    cdef uint64_t b, key, removed = 0
    cdef uint32_t i
    cdef MacEntry *entry
    for b in range(first, first + n_buckets):
        for i in range(<uint32_t>PLACES):
            entry = &table.buckets[b & table.mask].places[i]
            key = load_acquire_u64(&entry.key)
            if key == 0 or not doomed(table, key, load_acquire_u64(&entry.value), what):
                continue
            lock(table)
            if entry.key and doomed(table, entry.key, entry.value, what):
                vacate(table, entry)
                removed += 1
            unlock(table)
    return removed


cdef bint is_stale(const MacTable *table, uint64_t key, uint64_t value, uint64_t what) noexcept nogil:
    """Too old, or flushed."""
    return not answers(table, key, value)


cdef bint is_static_of(const MacTable *table, uint64_t key, uint64_t value, uint64_t port) noexcept nogil:
    return value & ENTRY_STATIC != 0 and port_of(value) == port


cdef bint is_elsewhere(const MacTable *table, uint64_t key, uint64_t value, uint64_t reserved) noexcept nogil:
    """Whether this address was learned at another port than the one it is now reserved for: its key, any VLAN."""
    cdef MacEntry *entry = entry_of(table, reserved)
    return (
        not value & ENTRY_STATIC and (key ^ reserved) & KEY_ADDRESS == 0
        and entry != NULL and port_of(load_acquire_u64(&entry.value)) != port_of(value)
    )
