"""Guest-physical addresses to host pointers. vhost-user, "Memory region description"; virtio 1.2, section 2.7.

A region table is immutable once built: a change of memory is a new table, put into effect through the door.
Ranges are checked by subtraction, so that no address or length can wrap past a check.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct Region:
    uint64_t guest_addr
    uint64_t bytes
    uint8_t *host
    uint64_t user_addr


cdef struct RegionTable:
    uint32_t n_regions       # at least 1
    Region *regions          # sorted by guest_addr


cdef inline bint holds(const Region *region, uint64_t guest_addr, uint64_t bytes) noexcept nogil:
    """Whether all of a range lies in this region."""
    cdef uint64_t offset = guest_addr - region.guest_addr
    return offset < region.bytes and bytes <= region.bytes - offset


cdef inline uint8_t *in_region(const Region *region, uint64_t guest_addr, uint64_t bytes) noexcept nogil:
    """The host pointer to a range, if all of it lies in this region; else NULL."""
    return region.host + (guest_addr - region.guest_addr) if holds(region, guest_addr, bytes) else NULL


cdef inline const Region *find_region(const RegionTable *table, uint64_t guest_addr) noexcept nogil:
    """The region that holds this guest address, else NULL."""
    cdef uint32_t low = 0, high = table.n_regions, middle
    cdef const Region *region
    while low < high:
        middle = (low + high) >> 1
        region = &table.regions[middle]
        if guest_addr < region.guest_addr:
            high = middle
        elif guest_addr - region.guest_addr < region.bytes:
            return region
        else:
            low = middle + 1
    return NULL


cdef inline bint holds_host(const RegionTable *table, const uint8_t *host, uint64_t bytes) noexcept nogil:
    """Whether all of a range of host memory lies in one region."""
    cdef uint32_t i
    cdef uint64_t offset
    for i in range(table.n_regions):
        offset = <uint64_t>(host - table.regions[i].host)
        if offset < table.regions[i].bytes and bytes <= table.regions[i].bytes - offset:
            return True
    return False


cdef uint8_t *host_of_user(const RegionTable *table, uint64_t user_addr, uint64_t bytes) noexcept nogil


cdef class Mapping:
    cdef readonly uint64_t guest_addr, bytes, user_addr, mmap_offset
    cdef uint8_t *base              # what mmap returned, page-aligned; NULL once closed
    cdef uint64_t map_bytes, page   # the file's page, of which map_bytes is a multiple
    cdef uint8_t *host              # the region's first byte
    cdef void *guard                # struct fault_guard
    cdef uint32_t users             # ports that use it, and readers: it stays mapped until they are done
    cdef bint closing               # to be unmapped when the last of them is done
    cdef int unmap(self) except -1
    cdef int left(self) except -1


cdef class GuestMemory:
    cdef readonly tuple mappings
    cdef RegionTable table
    cdef int watch(self, int attention_fd) except -1
    cdef int unwatch(self, GuestMemory successor) except -1
    cdef Mapping mapping_of(self, uint64_t guest_addr, uint64_t bytes)
