"""A guest's memory: one memfd, huge pages where the machine has some, mapped and populated.

Guest-physical addresses start at GUEST_BASE, so that none of them is by chance a valid host address.
"""

import os

from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, munmap
from posix.mman cimport mmap as map_memory

cdef extern from "<sys/mman.h>" nogil:
    const int MAP_POPULATE
cdef extern from "<unistd.h>" nogil:
    int close_fd "close"(int fd)

# A gigabyte up, as a PC's memory above a hole would lie; a multiple of every page size in use.
GUEST_BASE = 0x4000_0000
cdef uint64_t HUGE_PAGE = 2 << 20


cdef class GuestRam:
    """The memory of one guest. Owns the memfd and the mapping."""

    def __cinit__(self, uint64_t n_bytes, *, bint huge=True):
        self.fd = -1
        self.data = NULL
        self.guest_addr = <uint64_t>GUEST_BASE
        self.bytes = (n_bytes + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
        # All of it is populated: more than the machine has would end the process, or another one.
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.bytes < n_bytes or not n_bytes or self.bytes > most:
            raise ValueError(f"guest memory of {n_bytes} bytes: give it a size above 0, and up to the {most} there are")
        if not (huge and self._map(os.MFD_HUGETLB)) and not self._map(0):
            raise MemoryError(f"guest memory: {self.bytes} bytes of shared memory are not to be had")

    cdef bint _map(self, unsigned int flags) except -1:
        """Create, size and map a memfd. False, and nothing left behind, where this machine has no such pages."""
        cdef int fd = os.memfd_create("fastvhost-guest", os.MFD_CLOEXEC | flags)
        cdef void *data = MAP_FAILED
        try:
            os.ftruncate(fd, self.bytes)
            # Populated, so that no page fault lands in a measurement; huge pages fail here, not by SIGBUS later.
            data = map_memory(NULL, self.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0)
        except OSError:
            pass
        if data == MAP_FAILED:
            os.close(fd)
            return False
        self.fd, self.data, self.huge = fd, <uint8_t *>data, flags != 0
        return True

    cdef uint8_t *allot(self, uint64_t n_bytes, uint64_t alignment) except NULL:
        """The next free stretch of the memory. It is never given back."""
        cdef uint64_t start = (self.taken + alignment - 1) // alignment * alignment
        if self.data == NULL or start > self.bytes or n_bytes > self.bytes - start:
            raise MemoryError(f"guest memory of {self.bytes} bytes is too small for {n_bytes} bytes at {start}")
        self.taken = start + n_bytes
        return self.data + start

    cdef uint64_t guest_of(self, const void *p) noexcept nogil:
        return self.guest_addr + <uint64_t>(<const uint8_t *>p - self.data)

    @property
    def user_addr(self) -> int:
        """Where the memory lies in this process: what vhost-user calls the user address."""
        return <uint64_t>self.data

    def read(self, uint64_t offset, uint64_t n_bytes) -> bytes:
        """Bytes of the memory, for tests."""
        if self.data == NULL or offset > self.bytes or n_bytes > self.bytes - offset:
            raise ValueError(f"{n_bytes} bytes at {offset} lie outside this guest's memory")
        return (<const char *>self.data)[offset:offset + n_bytes]

    def write(self, uint64_t offset, bytes content not None):
        """Put bytes into the memory, for tests."""
        cdef uint64_t n_bytes = len(content)
        if self.data == NULL or offset > self.bytes or n_bytes > self.bytes - offset:
            raise ValueError(f"{n_bytes} bytes at {offset} lie outside this guest's memory")
        self.written = True
        memcpy(self.data + offset, <const char *>content, n_bytes)

    def close(self):
        """Unmap and close. Idempotent. A device's memory: ValueError, GuestDevice.close does it."""
        if self.lent:
            raise ValueError("guest memory: a device runs on it; close that")
        self.let_go()

    cdef int let_go(self) except -1:
        self.lent = False
        if self.data != NULL:
            munmap(self.data, self.bytes)
            self.data = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        return 0

    def __dealloc__(self):
        if self.data != NULL:
            munmap(self.data, self.bytes)
            self.data = NULL
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1
