"""The control side of a virtio-net device."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.guest_memory cimport GuestMemory
from fastvhost.dataplane.notifier cimport Notifier
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.virtio_device cimport Device, Queue


cdef class VirtioPort(Port):
    cdef Device *device
    cdef Door door
    cdef GuestMemory memory
    cdef Notifier notifier
    cdef uint64_t features
    cdef bint packed
    cdef bint reported_fault
    cdef readonly uint32_t queue_pairs
    cdef readonly int attention_fd
    cdef Queue *queue(self, uint32_t index) except NULL
    cdef bint place(self, Queue *queue) noexcept
    cdef void rewind(self, Queue *queue) noexcept
    cdef void take_back(self) noexcept
    cdef void count_active(self) noexcept
    cdef uint32_t err_slot(self, uint32_t index) noexcept
