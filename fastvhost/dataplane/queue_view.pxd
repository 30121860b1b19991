"""What a queue's rings say now, for show and diagnosis: read from memory that may be slow to come."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.guest_memory cimport GuestMemory
from fastvhost.dataplane.virtio_device cimport Queue


cdef struct QueueView:
    uint32_t avail_idx
    uint32_t used_idx
    bint kick_suppressed
    bint interrupt_wanted


cdef int count_users(GuestMemory memory, int more) except -1
cdef QueueView look_at_queue(const Queue *queue, bint packed) noexcept nogil
