"""The control side of a virtio-net device."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.changing_port cimport ChangingPort
from fastvhost.dataplane.guest_memory cimport GuestMemory
from fastvhost.dataplane.journal cimport Journal
from fastvhost.dataplane.notifier cimport Notifier
from fastvhost.dataplane.virtio_change cimport DeviceChange
from fastvhost.dataplane.virtio_device cimport Device, Queue


cdef class VirtioPort(ChangingPort):
    # what workers use now
    cdef Device *device
    cdef GuestMemory memory
    cdef Notifier notifier
    cdef Journal *journals       # one for each ring, or NULL; in what `kept` holds
    cdef object kept
    # what they are to use after the change
    cdef DeviceChange next
    cdef GuestMemory next_memory
    cdef bint reported_fault
    cdef readonly uint32_t queue_pairs
    cdef readonly int attention_fd
    cdef Queue *queue(self, uint32_t index) except NULL
    cdef int need_made(self) except -1
    cdef uint32_t err_slot(self, uint32_t index) noexcept
    cdef DeviceChange *plan(self) except NULL
    cdef const Queue *planned(self, uint32_t index) except NULL
