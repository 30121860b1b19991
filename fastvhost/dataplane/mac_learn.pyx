"""Workers write to the forwarding table. See mac_learn.pxd."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.unistd cimport usleep

from fastvhost.abi.shared_memory cimport (
    cpu_pause, exchange_i32, load_acquire_u32, load_acquire_u64, load_i32, load_u64, replace_u64, store_release_u64,
    store_u64,
)
from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.mac_table cimport (
    ENTRY_FROZEN, ENTRY_STATIC, KEY_ADDRESS, KEY_ANY_VLAN, LEARN_AT_LIMIT, LEARN_BUSY, LEARN_FLAPPING, LEARN_FROZEN,
    LEARN_MOVED, LEARN_NEW, LEARN_NO_SOURCE, LEARN_REFRESHED, LEARN_RESERVED, LEARN_STATIC, LEARN_TABLE_FULL,
    LEARN_TOO_FAST, LEARN_UNCHANGED, NOBODY, PLACES, Learning, MacBucket, MacEntry, MacPort, MacTable,
    answers, first_bucket, is_group, mac_hash, entry_of, port_of, second_bucket,
)

cdef enum:
    SPINS = 1000
    NAP_MICROSECONDS = 20
    MOVES_SHIFT = 56


# What learning would do, and where.
cdef struct Verdict:
    Learning outcome
    MacEntry *entry            # of LEARN_NEW, too: a free place, or one whose entry goes


cdef bint try_lock(MacTable *table) noexcept nogil:
    return load_i32(&table.writing) == 0 and exchange_i32(&table.writing, 1) == 0


cdef void lock(MacTable *table) noexcept nogil:
    """For control. A worker that holds it is done within a microsecond, unless it is not running."""
    cdef uint32_t spins = 0
    while not try_lock(table):
        spins += 1
        if spins < SPINS:
            cpu_pause()
        else:
            usleep(NAP_MICROSECONDS)


cdef void unlock(MacTable *table) noexcept nogil:
    check(load_i32(&table.writing) == 1, "mac table: who unlocks it has locked it")
    exchange_i32(&table.writing, 0)


# Learning


cdef Learning learn_slowly(MacTable *table, uint64_t key, uint32_t port) noexcept nogil:
    """What is not to be learned is found out without the lock; what is, once more under it."""
    cdef Verdict verdict = judge(table, key, port)
    if verdict.outcome == LEARN_UNCHANGED:
        return LEARN_UNCHANGED
    if verdict.entry != NULL:
        if try_lock(table):
            verdict = judge(table, key, port)
            if verdict.entry != NULL:
                write_down(table, key, port, verdict)
            unlock(table)
        else:
            verdict.outcome = LEARN_BUSY
    if verdict.outcome != LEARN_UNCHANGED:
        count(&table.ports[port].outcomes[<int>verdict.outcome])
    return verdict.outcome


cdef void count(uint64_t *outcome) noexcept nogil:
    """One more. Several workers may have the same port."""
    cdef uint64_t before = load_u64(outcome)
    while not replace_u64(outcome, before, before + 1):
        before = load_u64(outcome)


cdef Verdict judge(const MacTable *table, uint64_t key, uint32_t port) noexcept nogil:
    """Reads only. An entry says that something is to be written there."""
    cdef MacEntry *entry
    cdef uint64_t value
    cdef Learning outcome
    if is_group(key) or not key & KEY_ADDRESS:
        return Verdict(LEARN_NO_SOURCE, NULL)
    entry = entry_of(table, key)
    if entry == NULL:
        outcome = admission(table, key, port, 0)
        if outcome != LEARN_NEW:
            return Verdict(outcome, NULL)
        entry = place_for(table, key, port)
        return Verdict(LEARN_NEW if entry != NULL else LEARN_TABLE_FULL, entry)
    value = load_acquire_u64(&entry.value)
    if not answers(table, key, value):
        outcome = admission(table, key, port, port_of(value) == port)
    elif port_of(value) == port:
        outcome = LEARN_UNCHANGED if is_frozen(table, value) else LEARN_REFRESHED
    elif value & ENTRY_STATIC:
        outcome = LEARN_STATIC
    elif is_frozen(table, value):
        outcome = LEARN_FROZEN
    else:
        outcome = admission(table, key, port, 0)
        if outcome == LEARN_NEW:
            outcome = LEARN_FLAPPING if moves_of(table, value) >= MOST_MOVES else LEARN_MOVED
    if outcome in (LEARN_NEW, LEARN_REFRESHED, LEARN_MOVED, LEARN_FLAPPING):
        return Verdict(outcome, entry)
    return Verdict(outcome, NULL)


cdef Learning admission(const MacTable *table, uint64_t key, uint32_t port, uint32_t own) noexcept nogil:
    """LEARN_NEW, or why this port may not have it. own: how many of its entries it takes the place of."""
    cdef const MacPort *limits = &table.ports[port]
    cdef MacEntry *reserved = entry_of(table, key | KEY_ANY_VLAN)
    if reserved != NULL and port_of(load_acquire_u64(&reserved.value)) != port:
        return LEARN_RESERVED
    if limits.learned - own >= limits.most:
        return LEARN_AT_LIMIT
    if limits.rate and limits.recent >= limits.rate and limits.recent_tick == load_acquire_u32(&table.now) & 0xffff:
        return LEARN_TOO_FAST
    return LEARN_NEW


cdef bint is_frozen(const MacTable *table, uint64_t value) noexcept nogil:
    """From when it flapped to the end of the next second."""
    return value & ENTRY_FROZEN != 0 and <uint16_t>(load_acquire_u32(&table.now) - value) <= 1


cdef uint32_t moves_of(const MacTable *table, uint64_t value) noexcept nogil:
    """How often it moved within this second."""
    if <uint16_t>value != <uint16_t>load_acquire_u32(&table.now):
        return 0
    return <uint32_t>(value >> MOVES_SHIFT)


cdef MacEntry *place_for(const MacTable *table, uint64_t key, uint32_t port) noexcept nogil:
    """The place for a new entry: free, in the emptier bucket, else that of an entry that has to go. NULL: none has.

    port: whose entry it will be; NOBODY: a static one, before which every learned one goes.
    """
    cdef uint64_t hash = mac_hash(key, table.secret, table.factor), other, value
    cdef MacBucket *buckets[2]
    cdef MacEntry *vacant[2]
    cdef MacEntry *entry
    cdef MacEntry *victim = NULL
    cdef uint32_t n_vacant[2]
    cdef uint32_t b, i, owner, n, age, most_owner = NOBODY, most = 0, oldest = 0, now = load_acquire_u32(&table.now)
    cdef uint32_t own = 0 if port == NOBODY else table.ports[port].learned
    buckets[0], buckets[1] = first_bucket(table, hash), second_bucket(table, hash)
    for b in range(2):
        vacant[b], n_vacant[b] = NULL, 0
        for i in range(<uint32_t>PLACES):
            entry = &buckets[b].places[i]
            other, value = load_acquire_u64(&entry.key), load_acquire_u64(&entry.value)
            if other == 0 or not answers(table, other, value):
                vacant[b] = vacant[b] if n_vacant[b] else entry  # the first one is found soonest
                n_vacant[b] += 1
                continue
            owner = port_of(value)
            n, age = table.ports[owner].learned, <uint16_t>(now - value)
            if value & ENTRY_STATIC or (owner != port and n <= own):
                continue
            if n > most or (owner == most_owner and age > oldest):
                victim, most, most_owner, oldest = entry, n, owner, age
    if n_vacant[0] or n_vacant[1]:
        return vacant[0] if n_vacant[0] >= n_vacant[1] else vacant[1]
    return victim


cdef void write_down(MacTable *table, uint64_t key, uint32_t port, Verdict verdict) noexcept nogil:
    """Under the lock."""
    cdef MacEntry *entry = verdict.entry
    cdef uint64_t old = entry.value, value = <uint64_t>port << 32 | load_acquire_u32(&table.now)
    if verdict.outcome == LEARN_NEW:
        if entry.key != key:
            if entry.key and answers(table, entry.key, old):
                table.ports[port_of(old)].evicted += 1
            occupy(table, entry, key, value)
        else:
            change_port(table, old, port)
            store_release_u64(&entry.value, value)
    elif verdict.outcome == LEARN_REFRESHED:
        value |= old & ENTRY_STATIC | <uint64_t>moves_of(table, old) << MOVES_SHIFT
        store_release_u64(&entry.value, value)
        return
    elif verdict.outcome == LEARN_MOVED:
        change_port(table, old, port)
        store_release_u64(&entry.value, value | <uint64_t>(moves_of(table, old) + 1) << MOVES_SHIFT)
        renew_generation(table)
    else:
        store_release_u64(&entry.value, old | ENTRY_FROZEN)
        store_u64(&table.flapping_ports, port_of(old) | <uint64_t>port << 32)
        store_u64(&table.last_flapping, key)
        return
    spend(&table.ports[port], <uint16_t>value)


cdef void spend(MacPort *port, uint32_t tick) noexcept nogil:
    """One of what the port may learn in this second."""
    if port.recent_tick != tick:
        port.recent_tick, port.recent = tick, 0
    port.recent += 1


cdef void change_port(MacTable *table, uint64_t old, uint32_t port) noexcept nogil:
    """The counts, where a learned entry passes to another port."""
    check(table.ports[port_of(old)].learned > 0, "mac table: a port with an entry has one that is counted")
    table.ports[port_of(old)].learned -= 1
    table.ports[port].learned += 1


# Entries come and go, under the lock


cdef void renew_generation(MacTable *table) noexcept nogil:
    store_release_u64(&table.generation, table.generation + 1)


cdef void vacate(MacTable *table, MacEntry *entry) noexcept nogil:
    """The order is that of readers: see mac_table.pxd."""
    if not entry.value & ENTRY_STATIC:
        check(table.ports[port_of(entry.value)].learned > 0, "mac table: an entry that goes was counted")
        table.ports[port_of(entry.value)].learned -= 1
    store_release_u64(&entry.key, 0)
    renew_generation(table)


cdef void occupy(MacTable *table, MacEntry *entry, uint64_t key, uint64_t value) noexcept nogil:
    if entry.key:
        vacate(table, entry)
    store_release_u64(&entry.value, value)   # pairs with find's load of it
    store_release_u64(&entry.key, key)
    if not value & ENTRY_STATIC:
        table.ports[port_of(value)].learned += 1
