"""The memory of an endpoint, in slots that go round between its program and a worker by four rings of parcels.

A slot of the program's half is lent, filled by the program, leaving, and then returned. One of the worker's half is
vacant, filled by the worker, arrived, and then released. A received slot that the program sends back returns to the
program's half; rebalance() moves the surplus to the worker's half again.
"""

import mmap
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32
from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.dataplane.eventfd cimport wake_eventfd
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.ports.parcels cimport (
    Parcel,
    free_parcels,
    make_parcels,
    parcels_there,
    put_parcel,
    show_parcels,
    take_parcel,
)


cdef class EndpointSlots(Port):
    """The slots of a port whose other end is the program, and the program's moves of them. See endpoint.Endpoint."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.side.program_fd = self.side.worker_fd = -1

    cdef int make_slots(self, uint32_t slots, uint32_t slot_bytes, bint offloads) except -1:
        """Called once. slots: a power of two. Half of them are the program's, the others the worker's."""
        cdef uint32_t i
        cdef Py_buffer buffer
        self.slots, self.slot_bytes, self.share = slots, slot_bytes, slots // 2
        self.spare = <uint32_t *>calloc(slots, sizeof(uint32_t))
        if self.spare == NULL:
            raise MemoryError
        if not (
            make_parcels(&self.side.arrived, slots) and make_parcels(&self.side.returned, slots)
            and make_parcels(&self.side.leaving, slots) and make_parcels(&self.side.vacant, slots)
        ):
            raise MemoryError
        if offloads:
            self.side.headers = <NetHeader *>calloc(slots, sizeof(NetHeader))
            if self.side.headers == NULL:
                raise MemoryError
        self.memory = mmap.mmap(-1, <uint64_t>slots * slot_bytes)
        self.view = memoryview(self.memory)
        PyObject_GetBuffer(self.memory, &buffer, PyBUF_SIMPLE)
        self.side.memory, self.side.slot_bytes = <uint8_t *>buffer.buf, slot_bytes
        PyBuffer_Release(&buffer)  # the view keeps the mapping where it is
        self.side.program_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.side.worker_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for i in range(slots):
            if i < self.share:
                self.spare[self.n_spare] = i
                self.n_spare += 1
            else:
                put_parcel(&self.side.vacant, i, 0)
        show_parcels(&self.side.vacant)
        return 0

    def __dealloc__(self) -> None:
        free(self.spare)
        free(self.side.headers)
        free_parcels(&self.side.arrived)
        free_parcels(&self.side.returned)
        free_parcels(&self.side.leaving)
        free_parcels(&self.side.vacant)
        if self.side.program_fd >= 0:
            close(self.side.program_fd)
        if self.side.worker_fd >= 0:
            close(self.side.worker_fd)

    cdef uint32_t take(self, Parcel *parcels, uint32_t most) noexcept nogil:
        """Take up to `most` frames that arrived. They are the program's until put_back or pass_on."""
        cdef uint32_t i, n = min(most, parcels_there(&self.side.arrived))
        self.rebalance()
        for i in range(n):
            parcels[i] = take_parcel(&self.side.arrived)
        return n

    cdef uint32_t lend_slots(self, Parcel *parcels, uint32_t most) noexcept nogil:
        """Take up to `most` empty slots, for plain frames unless the caller sets a header. It also sets their bytes."""
        cdef uint32_t i, n = 0, there = parcels_there(&self.side.returned)
        while n < most and self.n_spare:
            self.n_spare -= 1
            parcels[n] = Parcel(self.spare[self.n_spare], 0)
            n += 1
        while n < most and there:
            parcels[n] = take_parcel(&self.side.returned)
            there -= 1
            n += 1
        for i in range(n if self.side.headers != NULL else 0):
            self.side.headers[parcels[i].slot] = NetHeader(0, 0, 0, 0, 0, 0, 1)
        return n

    cdef void put_back(self, const Parcel *parcels, uint32_t n, bint lent) noexcept nogil:
        """Give back slots that are not sent. lent: they came from lend_slots."""
        cdef uint32_t i
        for i in range(n):
            if lent:
                self.spare[self.n_spare] = parcels[i].slot
                self.n_spare += 1
            else:
                put_parcel(&self.side.vacant, parcels[i].slot, 0)
        show_parcels(&self.side.vacant)

    cdef void pass_on(self, const Parcel *parcels, uint32_t n) noexcept nogil:
        """Send the frames of these slots."""
        cdef uint32_t i
        for i in range(n):
            put_parcel(&self.side.leaving, parcels[i].slot, parcels[i].bytes)
        show_parcels(&self.side.leaving)
        self.rebalance()
        full_fence()  # pairs with the fence before a worker sleeps (idle)
        if load_acquire_u32(&self.side.worker_waits):
            wake_eventfd(self.side.worker_fd)

    cdef void rebalance(self) noexcept nogil:
        """Give the worker those of the returned slots that exceed the program's share."""
        cdef uint32_t there = parcels_there(&self.side.returned)
        if there + self.n_spare <= self.share:
            return
        while there and there + self.n_spare > self.share:
            put_parcel(&self.side.vacant, take_parcel(&self.side.returned).slot, 0)
            there -= 1
        show_parcels(&self.side.vacant)
