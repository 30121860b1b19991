"""Guest memory: mapped regions, and guest-physical addresses to host pointers.

vhost-user, "Memory region description" and "VHOST_USER_SET_MEM_TABLE". Sizes are checked against the file before use;
fault_guard.h handles a file that shrinks later.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_NORESERVE, MAP_SHARED

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u16, store_release_u16

MAX_REGIONS = 509

cdef enum:
    MOST_AT_ONCE = 4096

cdef extern from "fastvhost/dataplane/fault_guard.h" nogil:
    struct fault_guard:
        pass
    int arm_fault_guards()
    fault_guard *guard_mapping(uint8_t *base, size_t bytes)
    void unguard_mapping(fault_guard *guard)
    int guard_faulted(const fault_guard *guard)
    void guard_attention(fault_guard *guard, int fd)

cdef extern from "fastvhost/dataplane/map_region.h" nogil:
    void *map_region(size_t bytes, size_t page, int flags, int fd, long offset)
    void unmap_region(uint8_t *base, size_t bytes, size_t page)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t bytes, int advice)
    const int MADV_DONTDUMP

cdef extern from "<sys/vfs.h>" nogil:
    struct statfs_t "statfs":
        long f_type
        long f_bsize
    int fstatfs(int fd, statfs_t *out)

# File systems on which another program or machine serves each page: touching such memory could stop a worker for ever.
# An overlay may lie over one. Numbers: linux/magic.h and statfs(2).
_SERVED = {
    0x65735546: "FUSE",
    0x6969: "NFS",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x01021997: "9P",
    0x00C36400: "Ceph",
    0x6B414653: "AFS",
    0x794C7630: "overlay",
}
_HUGETLBFS = 0x958458F6


class MemoryRefusedError(ValueError):
    """A region or a table of regions cannot be used. The text names the region and the remedy."""


def file_system(int fd) -> tuple[str | None, int]:
    cdef statfs_t fs
    cdef int failed
    with nogil:
        failed = fstatfs(fd, &fs)
    if failed:
        raise OSError(errno, os.strerror(errno))
    page = fs.f_bsize if <uint32_t>fs.f_type == _HUGETLBFS else os.sysconf("SC_PAGESIZE")
    return _SERVED.get(<uint32_t>fs.f_type), page


def why_not(str served_by) -> str:
    return (
        f"lies on a file system that another program or machine may serve ({served_by}); "
        "use memory-backend-memfd, or a file on tmpfs or hugetlbfs"
    )


cdef class Mapping:
    """One shared memory region of a front-end, mapped. vhost-user, "Memory region description"."""

    def __init__(
        self, int fd, uint64_t guest_addr, uint64_t bytes, uint64_t user_addr, uint64_t mmap_offset, uint64_t page=0
    ) -> None:
        cdef uint64_t skew, length
        cdef void *base
        cdef int reason
        if self.map_bytes or self.closing:
            raise MemoryRefusedError("memory region: a Mapping is made once")
        self.guest_addr, self.bytes, self.user_addr, self.mmap_offset = guest_addr, bytes, user_addr, mmap_offset
        if bytes == 0:
            raise MemoryRefusedError(f"{self._name()} is empty; the front-end sent a size of 0")
        for start, what in ((guest_addr, "guest addresses"), (user_addr, "user addresses"), (mmap_offset, "offsets")):
            if start > 2**64 - 1 - bytes:
                raise MemoryRefusedError(f"{self._name()}: its {what} wrap past 2^64; the front-end sent nonsense")
        if page == 0:
            page = self._page_of(fd)
        elif page & (page - 1):
            raise MemoryRefusedError(f"{self._name()}: no file has pages of {page} bytes; give 0 to have it looked up")
        self._check_file(fd)
        skew = mmap_offset % page
        length = skew + bytes
        length += (page - length % page) % page
        # Nothing is reserved here: whether huge pages are reserved was the front-end's choice.
        with nogil:  # it waits for page faults of other threads in memory that is slow to come
            base = map_region(length, page, MAP_SHARED | MAP_NORESERVE, fd, mmap_offset - skew)
            reason = errno
            if base != MAP_FAILED:
                madvise(base, length, MADV_DONTDUMP)
        if base == MAP_FAILED:
            raise MemoryRefusedError(
                f"{self._name()} cannot be mapped ({os.strerror(reason)}); "
                "its file must be open for reading and writing, and the process's address space must have room"
            )
        self.base, self.map_bytes, self.page, self.host = <uint8_t *>base, length, page, <uint8_t *>base + skew
        if arm_fault_guards() != 0:
            raise MemoryRefusedError(f"{self._name()}: no handler for SIGBUS can be set")
        self.guard = guard_mapping(self.base, self.map_bytes)
        if self.guard == NULL:
            raise MemoryError

    def _name(self) -> str:
        return f"memory region at guest address {self.guest_addr:#x} ({self.bytes} bytes)"

    def _page_of(self, int fd) -> int:
        try:
            served_by, page = file_system(fd)
        except OSError as error:
            raise MemoryRefusedError(
                f"{self._name()}: its file descriptor cannot be examined: {error.strerror}"
            ) from error
        if served_by is not None:
            raise MemoryRefusedError(f"{self._name()} {why_not(served_by)}")
        return page

    def _check_file(self, int fd) -> None:
        status = os.fstat(fd)
        if status.st_size < self.mmap_offset + self.bytes:
            raise MemoryRefusedError(
                f"{self._name()}: its file has {status.st_size} bytes, but the region ends at "
                f"{self.mmap_offset + self.bytes}; the file must be as long as the memory it backs"
            )

    @property
    def faulted(self) -> bool:
        return self.guard != NULL and guard_faulted(<fault_guard *>self.guard) != 0

    @property
    def closed(self) -> bool:
        return self.base == NULL or self.closing

    def close(self) -> None:
        self.closing = True
        if self.users == 0:
            self.unmap()

    cdef int unmap(self) except -1:
        cdef fault_guard *guard = <fault_guard *>self.guard
        cdef uint8_t *base = self.base
        self.guard, self.base = NULL, NULL
        if guard != NULL:
            with nogil:  # a handler of a SIGBUS elsewhere may be at work
                unguard_mapping(guard)
        if base != NULL:
            with nogil:  # to unmap a large one takes long
                unmap_region(base, self.map_bytes, self.page)
        return 0

    cdef int left(self) except -1:
        """One user is done. The last one unmaps a mapping that was closed meanwhile."""
        self.users -= 1
        if self.closing and self.users == 0:
            self.unmap()
        return 0

    def __dealloc__(self) -> None:
        if self.guard != NULL:
            unguard_mapping(<fault_guard *>self.guard)
        if self.base != NULL:
            unmap_region(self.base, self.map_bytes, self.page)


cdef uint8_t *host_of_user(const RegionTable *table, uint64_t user_addr, uint64_t bytes) noexcept nogil:
    """The host pointer to a range of front-end virtual addresses, if all of it lies in one region; else NULL."""
    cdef uint32_t i
    cdef uint64_t offset
    cdef const Region *region
    for i in range(table.n_regions):
        region = &table.regions[i]
        offset = user_addr - region.user_addr
        if offset < region.bytes and bytes <= region.bytes - offset:
            return region.host + offset
    return NULL


cdef class GuestMemory:
    """An immutable table of mappings, found by guest address. Does not own its mappings."""

    def __cinit__(self, mappings) -> None:
        cdef Mapping mapping
        cdef uint32_t i = 0
        ordered = tuple(sorted(mappings, key=lambda m: m.guest_addr))
        if not ordered:
            raise MemoryRefusedError("memory table is empty; the front-end shared no region")
        if len(ordered) > MAX_REGIONS:
            raise MemoryRefusedError(f"memory table has {len(ordered)} regions; {MAX_REGIONS} is the most")
        _refuse_overlap(ordered, "guest_addr")
        _refuse_overlap(sorted(ordered, key=lambda m: m.user_addr), "user_addr")
        self.mappings = ordered
        self.table.regions = <Region *>calloc(len(ordered), sizeof(Region))
        if self.table.regions == NULL:
            raise MemoryError
        for mapping in ordered:
            if mapping.closed:
                raise MemoryRefusedError(f"{mapping._name()} is closed already")
            self.table.regions[i] = Region(mapping.guest_addr, mapping.bytes, mapping.host, mapping.user_addr)
            i += 1
        self.table.n_regions = i

    def __dealloc__(self) -> None:
        free(self.table.regions)

    cdef int watch(self, int attention_fd) except -1:
        """A port is about to use this memory: it stays mapped until unwatch(). A SIGBUS in it writes this eventfd."""
        cdef Mapping mapping
        for mapping in self.mappings:
            if mapping.closing:
                raise MemoryRefusedError(f"{mapping._name()} is closed already")
        for mapping in self.mappings:
            mapping.users += 1
            if mapping.guard != NULL:
                guard_attention(<fault_guard *>mapping.guard, attention_fd)
        return 0

    cdef int unwatch(self, GuestMemory successor) except -1:
        """Undo watch(). For mappings that are in the port's next memory (successor) as well, SIGBUS still writes."""
        cdef Mapping mapping
        for mapping in self.mappings:
            if mapping.guard != NULL and (successor is None or mapping not in successor.mappings):
                guard_attention(<fault_guard *>mapping.guard, -1)
            mapping.left()
        return 0

    @property
    def faulted(self) -> bool:
        return any(mapping.faulted for mapping in self.mappings)

    # For the control thread, a few bytes at a time. Pages may be slow to come: touched without the GIL.

    def guest_of_user(self, uint64_t user_addr, uint64_t bytes) -> int:
        cdef uint32_t i
        cdef const Region *region
        for i in range(self.table.n_regions):
            region = &self.table.regions[i]
            if user_addr - region.user_addr < region.bytes:
                if bytes <= region.bytes - (user_addr - region.user_addr):
                    return region.guest_addr + (user_addr - region.user_addr)
        raise LookupError(f"{bytes} bytes at {user_addr:#x} lie in no region")

    cdef Mapping mapping_of(self, uint64_t guest_addr, uint64_t bytes):
        """The mapping that holds all of a range, with the caller as one more user: it stays mapped until left()."""
        cdef Mapping mapping
        cdef const Region *region = find_region(&self.table, guest_addr)
        if region == NULL or not holds(region, guest_addr, bytes):
            raise LookupError(f"{bytes} bytes at {guest_addr:#x} lie in no region")
        mapping = self.mappings[region - self.table.regions]
        if mapping.base == NULL or mapping.closing:
            raise LookupError(f"{mapping._name()} is closed already")
        mapping.users += 1
        return mapping

    def read(self, uint64_t guest_addr, uint32_t bytes) -> bytes:
        cdef uint8_t copy[MOST_AT_ONCE]
        cdef const uint8_t *data
        cdef Mapping mapping
        if bytes > MOST_AT_ONCE:
            raise ValueError(f"{bytes} bytes; {MOST_AT_ONCE} are the most at once")
        mapping = self.mapping_of(guest_addr, bytes)
        data = mapping.host + (guest_addr - mapping.guest_addr)
        with nogil:
            memcpy(copy, data, bytes)
        mapping.left()
        return copy[:bytes]

    def write(self, uint64_t guest_addr, bytes data not None) -> None:
        cdef Mapping mapping
        cdef uint8_t *place
        cdef const uint8_t *source = data
        cdef uint64_t n = len(data)
        mapping = self.mapping_of(guest_addr, n)
        place = mapping.host + (guest_addr - mapping.guest_addr)
        with nogil:
            memcpy(place, source, n)
        mapping.left()

    def load_u16(self, uint64_t guest_addr) -> int:
        cdef uint16_t value
        cdef const uint16_t *place
        cdef Mapping mapping = self.mapping_of(guest_addr, 2)
        place = <const uint16_t *>(mapping.host + (guest_addr - mapping.guest_addr))
        try:
            _check_aligned(<size_t>place)
            with nogil:
                value = load_acquire_u16(place)  # pairs with the driver's store
        finally:
            mapping.left()
        return value

    def store_u16(self, uint64_t guest_addr, uint16_t value) -> None:
        cdef uint16_t *place
        cdef Mapping mapping = self.mapping_of(guest_addr, 2)
        place = <uint16_t *>(mapping.host + (guest_addr - mapping.guest_addr))
        try:
            _check_aligned(<size_t>place)
            with nogil:
                store_release_u16(place, value)  # pairs with the driver's load
                full_fence()  # and before we look at what the driver wrote
        finally:
            mapping.left()


cdef int _check_aligned(size_t place) except -1:
    if place & 1:
        raise ValueError("two bytes at an odd address")
    return 0


def _refuse_overlap(ordered, key: str) -> None:
    """Neighbours in a sorted list must not share an address: one address, one byte."""
    for left, right in zip(ordered, ordered[1:]):
        if getattr(right, key) - getattr(left, key) < left.bytes:
            raise MemoryRefusedError(
                f"{left._name()} and {right._name()} overlap by {key}; the front-end sent nonsense"
            )
