"""The forwarding table as workers read it. See mac_table.pxd; who writes is in mac_learn and mac_change."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_acquire_u64

cdef enum:
    TRIES = 8                  # of a look-up that removals of entries disturb; then the address is unknown this time


cdef uint32_t find_again(const MacTable *table, uint64_t key) noexcept nogil:
    cdef uint32_t _i, port
    for _i in range(<uint32_t>TRIES):
        if looked_up(table, key, &port):
            return port
    return NOBODY


cdef bint answers(const MacTable *table, uint64_t key, uint64_t value) noexcept nogil:
    """Whether this entry is still one: used within the maximum age, and not flushed since. A static one always is."""
    cdef uint32_t now, of_port, of_vlan
    cdef uint64_t flushing
    if value & ENTRY_STATIC:
        return True
    now = load_acquire_u32(&table.now)
    if <uint16_t>(now - value) >= table.max_age:
        return False
    flushing = load_acquire_u64(&table.flushing)   # after `now`: see begin_flush
    if flushing == NOT_FLUSHED or <uint16_t>(value >> 16) == <uint16_t>(now >> 16):
        return True
    of_port, of_vlan = port_of(flushing), vlan_of(flushing)
    return not ((of_port == NOBODY or of_port == port_of(value)) and (of_vlan == ANY_VLAN or of_vlan == vlan_of(key)))
