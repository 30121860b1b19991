"""A guest's memory: one file of memory, huge pages where the machine has some, mapped and populated.

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

# One gigabyte: a multiple of every page size in use.
GUEST_BASE = 0x4000_0000
cdef uint64_t HUGE_PAGE = 2 << 20


SHARED_MEMORY = "/dev/shm"


cdef int memory_file(uint64_t n_bytes, bint huge) except -2:
    """A file of memory of this size: a memfd, or a file in /dev/shm where a sandbox forbids that. -1: there is no room.

    Raises MemoryError where neither can be had.
    """
    cdef int fd = -1
    try:
        fd = os.memfd_create("fastvhost-guest", os.MFD_CLOEXEC | (os.MFD_HUGETLB if huge else 0))
    except OSError as error:
        refused = error.strerror
    else:
        refused = ""
    if fd < 0 and huge:
        return -1
    try:
        if fd < 0:
            fd = os.open(SHARED_MEMORY, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MemoryError(
            f"guest memory: memfd_create: {refused}, and no file in {SHARED_MEMORY}: {error.strerror}; "
            "allow the system call memfd_create in the seccomp filter"
        ) from error
    try:
        if refused:
            os.posix_fallocate(fd, 0, n_bytes)  # its file system may have less room than this machine
        else:
            os.ftruncate(fd, n_bytes)
    except OSError:
        os.close(fd)
        return -1
    return fd


cdef class GuestRam:
    """The memory of one guest. Owns its file and the mapping."""

    def __cinit__(self, uint64_t n_bytes, *, bint huge=True):
        self.fd = -1
        self.data = NULL
        self.guest_addr = <uint64_t>GUEST_BASE
        self.bytes = (n_bytes + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
        # All of it is populated: more than the machine has would end the process, or another one.
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.bytes < n_bytes or not n_bytes or self.bytes > most:
            raise ValueError(f"guest memory of {n_bytes} bytes: give it a size above 0, and up to the {most} there are")
        if not (huge and self._map(True)) and not self._map(False):
            raise MemoryError(f"guest memory: {self.bytes} bytes of shared memory are not available")

    cdef bint _map(self, bint huge) except -1:
        """Make and map its file. False, and nothing left behind, where this machine has no such pages."""
        cdef int fd = memory_file(self.bytes, huge)
        cdef void *data
        if fd < 0:
            return False
        # Populated, so that no page fault lands in a measurement; huge pages fail here, not by SIGBUS later.
        data = map_memory(NULL, self.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0)
        if data == MAP_FAILED:
            os.close(fd)
            return False
        self.fd, self.data, self.huge = fd, <uint8_t *>data, huge
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
        """Unmap and close. Idempotent. Raises ValueError where a device uses it: GuestDevice.close() closes that."""
        if self.lent:
            raise ValueError("guest memory: a device uses it; close that device")
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
