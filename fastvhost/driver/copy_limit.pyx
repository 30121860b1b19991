"""The most that this machine allows: frames from one guest to another by one copy each, with no checks.

The device side of split rings, reduced to what moves bytes, between two GuestDevices of this process: no protocol, no
features, no errors, one buffer per frame. It trusts these guests. Never use it with others.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport (
    load_acquire_u16, load_acquire_u32, load_u16, prefetch_read, prefetch_write, store_release_u16, store_release_u32,
    store_u16,
)
from fastvhost.abi.virtio_ring cimport VIRTQ_USED_F_NO_NOTIFY, virtq_avail, virtq_desc, virtq_used
from fastvhost.driver.device cimport GuestDevice
from fastvhost.driver.queue cimport DriverQueue

cdef enum:
    BURST = 64
    BLOCK = 64             # a frame is copied in whole blocks: buffers end on such a boundary


cdef struct CopyLane:
    DriverQueue *source
    DriverQueue *target
    const uint8_t *source_zero   # where guest address 0 of the sender would be in this process
    uint8_t *target_zero
    uint16_t next_source
    uint16_t next_target


@cython.final
cdef class CopyLimit:
    """A bare wire between two guests with split rings and buffers that are not mergeable."""

    cdef tuple devices
    cdef CopyLane lanes[2]
    cdef uint32_t stopped

    def __cinit__(self, GuestDevice a not None, GuestDevice b not None):
        cdef GuestDevice sender, receiver
        if a.packed or b.packed or a.sides[0].mergeable or b.sides[0].mergeable or a.sides[0].n_parts > 1:
            raise ValueError("the copy limit wants split rings, one buffer per frame and none mergeable")
        self.devices = a, b
        for i, (sender, receiver) in enumerate(((a, b), (b, a))):
            self.lanes[i].source = &sender.sides[0].transmitq
            self.lanes[i].target = &receiver.sides[0].receiveq
            self.lanes[i].source_zero = sender.ram.data - sender.ram.guest_addr
            self.lanes[i].target_zero = receiver.ram.data - receiver.ram.guest_addr
            store_u16(&(<virtq_used *>self.lanes[i].source.device_area).flags, VIRTQ_USED_F_NO_NOTIFY)
            store_u16(&(<virtq_used *>self.lanes[i].target.device_area).flags, VIRTQ_USED_F_NO_NOTIFY)

    cdef int begin(self) except -1:
        """Start to use both guests. Raises ValueError where something else than their drivers wrote to their memory."""
        cdef GuestDevice a, b
        a, b = self.devices
        if a.ram.written or b.ram.written:
            raise ValueError("the copy limit trusts its guests' memory: give guests whose memory nobody wrote by hand")
        a.begin(&a.wired)
        try:
            b.begin(&b.wired)
        except BaseException:
            a.wired = False
            raise
        return 0

    cdef int end(self) except -1:
        cdef GuestDevice a, b
        a, b = self.devices
        a.wired = b.wired = False
        return 0

    def step(self) -> int:
        """One burst each way. Returns the frames moved. Not while run() runs."""
        self.begin()
        moved = move(&self.lanes[0]) + move(&self.lanes[1])
        self.end()
        return moved

    def run(self):
        """Until stop(). The GIL is free meanwhile."""
        self.begin()
        with nogil:
            while not load_acquire_u32(&self.stopped):
                move(&self.lanes[0])
                move(&self.lanes[1])
        self.end()

    def stop(self):
        """run() returns."""
        store_release_u32(&self.stopped, 1)


cdef uint32_t move(CopyLane *lane) noexcept nogil:
    cdef const virtq_desc *source = <const virtq_desc *>lane.source.descriptor_area
    cdef const virtq_desc *target = <const virtq_desc *>lane.target.descriptor_area
    cdef const virtq_avail *source_avail = <const virtq_avail *>lane.source.driver_area
    cdef const virtq_avail *target_avail = <const virtq_avail *>lane.target.driver_area
    cdef virtq_used *source_used = <virtq_used *>lane.source.device_area
    cdef virtq_used *target_used = <virtq_used *>lane.target.device_area
    cdef uint16_t source_mask = lane.source.size - 1, target_mask = lane.target.size - 1
    cdef uint16_t source_heads[BURST]
    cdef uint16_t target_heads[BURST]
    cdef const uint8_t *data[BURST]
    cdef uint8_t *room[BURST]
    cdef uint32_t n_bytes[BURST]
    # These pair with the drivers' release stores of avail.idx.
    cdef uint32_t n = <uint16_t>(load_acquire_u16(&source_avail.idx) - lane.next_source)
    cdef uint32_t n_room = <uint16_t>(load_acquire_u16(&target_avail.idx) - lane.next_target)
    cdef uint32_t i, at
    n = min(min(n, n_room), <uint32_t>BURST)
    if n == 0:
        return 0
    for i in range(n):
        source_heads[i] = load_u16(&source_avail.ring[(lane.next_source + i) & source_mask])
        target_heads[i] = load_u16(&target_avail.ring[(lane.next_target + i) & target_mask])
        data[i] = lane.source_zero + source[source_heads[i]].addr
        room[i] = lane.target_zero + target[target_heads[i]].addr
        n_bytes[i] = source[source_heads[i]].len
        prefetch_read(data[i])
        prefetch_read(data[i] + BLOCK)
        prefetch_write(room[i])
        prefetch_write(room[i] + BLOCK)
    for i in range(n):
        at = 0
        while at < n_bytes[i]:
            memcpy(room[i] + at, data[i] + at, BLOCK)
            at += BLOCK
        source_used.ring[(lane.next_source + i) & source_mask].id = source_heads[i]
        target_used.ring[(lane.next_target + i) & target_mask].id = target_heads[i]
        target_used.ring[(lane.next_target + i) & target_mask].len = n_bytes[i]
    lane.next_source += <uint16_t>n
    lane.next_target += <uint16_t>n
    store_release_u16(&target_used.idx, lane.next_target)   # these pair with the drivers' loads of used.idx
    store_release_u16(&source_used.idx, lane.next_source)
    return n
