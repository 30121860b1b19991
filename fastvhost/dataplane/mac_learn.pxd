"""Workers write to the forwarding table: they learn. What control writes is in mac_change.

All writing is done under one trylock. A worker that does not get it goes on, and learns with the next frame. What
is not to be learned is found out without it, so a guest that sends what is refused keeps nobody from learning.

**Limits.** A port has `most` entries, and learns `rate` of them in a second. A port at its limit learns nothing
more; it evicts nobody. Where both buckets of an address are full, the oldest entry there of the port with most
entries makes room, and never one of a port that has no more of them than the learning port itself. So whatever a port
sends, ports with fewer addresses keep theirs.

**Moves.** An address that moved MOST_MOVES times within a second stays where it is for the next one (frozen).
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_acquire_u64
from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.mac_table cimport (
    KEY_ANY_VLAN, LEARN_UNCHANGED, Learning, MacEntry, MacTable, entry_of,
)


cdef enum:
    MOST_MOVES = 5


cdef Learning learn_slowly(MacTable *table, uint64_t key, uint32_t port) noexcept nogil


cdef inline Learning learn(MacTable *table, uint64_t key, uint32_t port) noexcept nogil:
    """A frame with this source came from this port. vlan of the key: 0 to 4094."""
    cdef MacEntry *entry = entry_of(table, key)
    cdef uint64_t fresh = <uint64_t>port << 32 | load_acquire_u32(&table.now)
    check(key & KEY_ANY_VLAN != KEY_ANY_VLAN, "mac table: VLAN 4095 is of reservations")
    check(port < table.n_ports, "mac table: the port has a place for its counts")
    # Flags and moves do not matter. A torn value means that it is refreshed with the next frame.
    if entry != NULL and (load_acquire_u64(&entry.value) ^ fresh) << 16 == 0:
        return LEARN_UNCHANGED
    return learn_slowly(table, key, port)


cdef void lock(MacTable *table) noexcept nogil
cdef void unlock(MacTable *table) noexcept nogil
cdef void renew_generation(MacTable *table) noexcept nogil
cdef MacEntry *place_for(const MacTable *table, uint64_t key, uint32_t port) noexcept nogil
cdef void occupy(MacTable *table, MacEntry *entry, uint64_t key, uint64_t value) noexcept nogil
cdef void vacate(MacTable *table, MacEntry *entry) noexcept nogil
