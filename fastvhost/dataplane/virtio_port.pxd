"""The device side of a virtio-net device's queues. Virtio 1.2, section 5.1."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.guest_memory cimport GuestMemory
from fastvhost.dataplane.net cimport NetScratch
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.split_ring cimport SplitRing


cdef struct Queue:
    SplitRing ring
    # set through the door
    bint live                # start_queue gave it to us and stop_queue did not take it back
    bint enabled
    int call_fd
    uint64_t desc_user_addr, avail_user_addr, used_user_addr
    # written by its worker
    bint started
    uint32_t found_started   # events that control has not seen yet
    uint32_t found_broken
    uint64_t calls


cdef struct Device:
    # set through the door
    Queue *queues            # two a pair: even receiveq, odd transmitq
    uint32_t header_bytes
    bint mergeable
    bint link_up
    int attention_fd
    # written by the workers
    NetScratch scratch
    uint32_t found_first_frame
    bint seen_frame


cdef class VirtioPort(Port):
    cdef Device *device
    cdef Door door
    cdef GuestMemory memory
    cdef uint64_t features
    cdef bint reported_fault
    cdef readonly uint32_t queue_pairs
    cdef readonly int attention_fd
    cdef Queue *queue(self, uint32_t index) except NULL
    cdef bint place(self, Queue *queue) noexcept
    cdef void count_active(self) noexcept
