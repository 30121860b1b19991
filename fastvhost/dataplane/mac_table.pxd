"""The forwarding table as workers read it: which port an address was last seen at, by address and VLAN.

Buckets of four entries, one cache line each. An entry is in one of two buckets, which a hash with secrets of this table
says, and never moves. Places are twice the addresses that the table is made for.

**Readers take no lock.** A reader loads `generation`, key, value and `generation`. Before a writer puts another key
into a place, it removes the one there and then adds one to `generation`. So whoever sees the value of the next key
also sees another generation than before. Whatever else changes of an entry is one store of its value.

**Flushed and too old is absent.** Nothing is removed in the way of traffic: `answers` knows what was flushed, and how
old an entry is, and a sweep removes later what no longer answers. One flush at a time is in progress, with its number
in `now`: entries that it concerns answer if they were used since. It ends when a sweep has removed the others.

A caller may keep an answer (a port, not NOBODY) as long as `generation` is what it was *before* the look-up: it changes
with every move, flush, removal, change of a static entry, and every tick. The same holds for "this source is learned".
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_acquire_u64, load_u64, prefetch_read


cdef extern from "fastvhost/dataplane/mac_entry.h" nogil:
    const uint64_t KEY_USED, KEY_ANY_VLAN, KEY_ADDRESS, KEY_GROUP, KEY_LINK_LOCAL, KEY_LINK_LOCAL_MASK
    const uint64_t ENTRY_STATIC, ENTRY_FROZEN
    uint64_t mac_hash(uint64_t key, uint64_t secret, uint64_t factor)


cdef enum:
    NOBODY = 0xffff
    ANY_VLAN = 0xfff
    PLACES = 4                 # of a bucket: 64 bytes
    NOT_FLUSHED = 0


# What came of learning. Those from LEARN_BUSY on: not learned, and why.
cdef enum Learning:
    LEARN_UNCHANGED            # it is there, and was used within this second already
    LEARN_REFRESHED            # the same, for the first time in this second
    LEARN_NEW
    LEARN_MOVED                # from another port
    LEARN_BUSY                 # somebody else writes; the next frame will do
    LEARN_NO_SOURCE            # a group address, or all zeros
    LEARN_AT_LIMIT             # its port has as many as it may have
    LEARN_TOO_FAST             # its port learns as many a second as it may
    LEARN_TABLE_FULL           # no place, and the entries there are of ports with no more of them than this one
    LEARN_STATIC               # a static entry at another port
    LEARN_RESERVED             # for another port
    LEARN_FLAPPING             # moved too often in this second: stays where it is for a second
    LEARN_FROZEN               # in that second
    N_LEARNINGS


cdef struct MacEntry:
    uint64_t key               # 0: a free place
    uint64_t value


cdef struct MacBucket:
    MacEntry places[PLACES]


# What one port learned. Written under the lock, but for `outcomes`, which are counted atomically.
cdef struct MacPort:
    uint32_t learned           # its entries, also those that no longer answer, until they are swept
    uint32_t most              # of them
    uint32_t rate              # new ones and moves to it in a second; 0: any number
    uint32_t recent            # of them in `recent_tick`
    uint32_t recent_tick
    uint64_t evicted           # its entries that made room for another port's
    uint64_t outcomes[N_LEARNINGS]


cdef struct MacTable:
    # set once
    MacBucket *buckets
    MacPort *ports
    uint64_t mask              # of a bucket's number
    uint64_t secret
    uint64_t factor
    # written by whoever changes the table, read with every look-up
    uint64_t generation
    uint64_t flushing          # what is being flushed: port and VLAN (flush_word)
    uint32_t now               # tick, and above it the number of the last flush: the low half of a fresh value
    uint32_t max_age           # ticks
    # one cache line on
    uint32_t n_ports
    int32_t writing            # the lock of writers: 0 or 1
    uint64_t last_flapping     # key
    uint64_t flapping_ports    # of it: the one that it stays at, and shifted by 32 the other
    uint64_t swept             # the bucket that the next slice of a sweep begins with


cdef inline uint32_t port_of(uint64_t value) noexcept nogil:
    return <uint32_t>(value >> 32) & 0xffff


cdef inline uint32_t vlan_of(uint64_t key) noexcept nogil:
    return <uint32_t>(key >> 4) & 0xfff


cdef inline uint64_t destination_key(const uint8_t *header, uint32_t vlan) noexcept nogil:
    """Of a frame's header in our own memory, 12 bytes at least. vlan: 0 to 4094."""
    cdef uint64_t word
    memcpy(&word, header, sizeof(word))
    return word << 16 | vlan << 4 | KEY_USED


cdef inline uint64_t source_key(const uint8_t *header, uint32_t vlan) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, header + 4, sizeof(word))
    return word & KEY_ADDRESS | vlan << 4 | KEY_USED


cdef inline bint is_group(uint64_t key) noexcept nogil:
    """Whether it is a multicast or broadcast address, which the table never has."""
    return key & KEY_GROUP != 0


cdef inline bint is_broadcast(uint64_t key) noexcept nogil:
    return key & KEY_ADDRESS == KEY_ADDRESS


cdef inline bint is_link_local(uint64_t key) noexcept nogil:
    """Whether a bridge must not forward it: 01-80-C2-00-00-00 to 01-80-C2-00-00-0F."""
    return key & KEY_LINK_LOCAL_MASK == KEY_LINK_LOCAL


cdef inline MacBucket *first_bucket(const MacTable *table, uint64_t hash) noexcept nogil:
    return &table.buckets[hash & table.mask]


cdef inline MacBucket *second_bucket(const MacTable *table, uint64_t hash) noexcept nogil:
    return &table.buckets[hash >> 32 & table.mask]


cdef inline MacEntry *in_bucket(MacBucket *bucket, uint64_t key) noexcept nogil:
    """The entry with this key, else NULL."""
    # One by one: compilers leave a loop, of twice the instructions.
    if load_acquire_u64(&bucket.places[0].key) == key:
        return &bucket.places[0]
    if load_acquire_u64(&bucket.places[1].key) == key:
        return &bucket.places[1]
    if load_acquire_u64(&bucket.places[2].key) == key:
        return &bucket.places[2]
    if load_acquire_u64(&bucket.places[3].key) == key:
        return &bucket.places[3]
    return NULL


cdef inline MacEntry *entry_of(const MacTable *table, uint64_t key) noexcept nogil:
    """Where the table has this key, else NULL."""
    cdef uint64_t hash = mac_hash(key, table.secret, table.factor)
    cdef MacEntry *entry = in_bucket(first_bucket(table, hash), key)
    return entry if entry != NULL else in_bucket(second_bucket(table, hash), key)


cdef bint answers(const MacTable *table, uint64_t key, uint64_t value) noexcept nogil


cdef inline void prefetch(const MacTable *table, uint64_t key) noexcept nogil:
    """Both buckets, for a look-up soon."""
    cdef uint64_t hash = mac_hash(key, table.secret, table.factor)
    prefetch_read(first_bucket(table, hash))
    prefetch_read(second_bucket(table, hash))


cdef inline bint looked_up(const MacTable *table, uint64_t key, uint32_t *port) noexcept nogil:
    """One try of a look-up. False: an entry was removed meanwhile, so what was seen may be of two entries."""
    cdef uint64_t value, generation = load_acquire_u64(&table.generation)
    cdef MacEntry *entry = entry_of(table, key)
    port[0] = NOBODY
    if entry == NULL:
        return True
    value = load_acquire_u64(&entry.value)   # pairs with occupy's store of it
    if load_u64(&table.generation) != generation:
        return False
    if <uint32_t>value == load_acquire_u32(&table.now) or answers(table, key, value):
        port[0] = port_of(value)
    return True


cdef uint32_t find_again(const MacTable *table, uint64_t key) noexcept nogil


cdef inline uint32_t find(const MacTable *table, uint64_t key) noexcept nogil:
    """The port of an address in a VLAN, else NOBODY. Any thread may call."""
    cdef uint32_t port
    return port if looked_up(table, key, &port) else find_again(table, key)
