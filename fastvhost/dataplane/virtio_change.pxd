"""What a virtio-net device is to become: written by its control thread, unseen by workers until it is committed.

A message of the front-end may ask for several things. Each is written here, and all take effect in one step, which is
taken by a worker between two bursts (door). It copies fields and touches no guest memory, since a guest or its
front-end could make that slow.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.guest_memory cimport RegionTable
from fastvhost.dataplane.journal cimport Journal
from fastvhost.dataplane.receiveq cimport Receiver
from fastvhost.dataplane.packed_journal cimport FoundPlace
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.virtio_device cimport Device, Queue


cdef enum Placement:
    PLACED
    OUTSIDE_MEMORY
    MISALIGNED


cdef struct QueueChange:
    Queue queue              # as it is to become; valid where touched
    bint touched
    bint stops               # the queue that workers see ends
    bint starts              # workers get a queue that they did not see before
    bint resumes             # it goes on where the one that stops in this change stood
    bint kicks               # its first kick came
    bint calls               # its call descriptor is another
    bint lost                # its parts lie in no region of the new memory
    Journal *forgets         # the journal to clear; NULL: none
    uint32_t said            # the base that its front-end named for the start
    FoundPlace start        # the place where it starts (packed)
    uint32_t base            # where it stood when it last stopped or was lost


cdef struct DeviceChange:
    PortOps *port           # what changes
    Device *device
    QueueChange *queues      # as many as the device has
    uint32_t n_queues
    bint begun               # what follows is filled in
    bint touched
    bint takes_back          # frames that workers hold go back to their rings
    bint link_changes
    bint link_up
    uint64_t features
    Receiver receiver
    bint packed


# How a ring starts.
cdef enum RingStart:
    AS_TOLD
    WENT_ON                  # from where the journal says that another process left it
    LEFT_STANDING            # it was in use, and nothing tells where it stood


cdef void begin_change(DeviceChange *change, const Device *device) noexcept nogil
cdef Queue *touch(DeviceChange *change, const Device *device, uint32_t index) noexcept nogil
cdef Placement place(Queue *queue, const RegionTable *table, bint packed) noexcept nogil
cdef RingStart start_ring(
    DeviceChange *change, const Device *device, Queue *fresh, uint32_t base, bint resumes, Journal *journal
) noexcept nogil
cdef uint32_t ring_base(const Ring *ring, bint packed) noexcept nogil
cdef void commit_change(void *prepared) noexcept nogil
