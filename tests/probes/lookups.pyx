"""Where guest memory is found: what the data plane asks of its table, for whole ranges."""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.guest_memory cimport GuestMemory, Region, find_region, host_of_user


def holds_user(GuestMemory memory not None, uint64_t user_addr, uint64_t bytes) -> bool:
    return host_of_user(&memory.table, user_addr, bytes) != NULL


def holds_guest(GuestMemory memory not None, uint64_t guest_addr, uint64_t bytes) -> bool:
    cdef const Region *region
    cdef uint64_t room
    while True:
        region = find_region(&memory.table, guest_addr)
        if region == NULL:
            return False
        room = region.bytes - (guest_addr - region.guest_addr)
        if bytes <= room:
            return True
        guest_addr += room
        bytes -= room
