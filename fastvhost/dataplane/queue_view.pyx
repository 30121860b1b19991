"""What a queue and its ring say now, for show and diagnosis. Virtio 1.2, sections 2.7 and 2.8.

Pages of guest memory may be slow to come, so it is read without the GIL. The reader counts as a user of it meanwhile,
so that it stays mapped.
"""

from typing import NamedTuple

from libc.stdint cimport uint16_t, uint32_t

from fastvhost.abi.shared_memory cimport cpu_pause, full_fence, load_acquire_u32, load_u16
from fastvhost.abi.virtio_packed cimport RING_EVENT_FLAGS_DISABLE, pvirtq_desc, pvirtq_event_suppress
from fastvhost.abi.virtio_ring cimport VIRTQ_AVAIL_F_NO_INTERRUPT, virtq_avail, virtq_used
from fastvhost.dataplane.guest_memory cimport GuestMemory, Mapping
from fastvhost.dataplane.packed_marks cimport is_available
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.tally cimport Tally
from fastvhost.dataplane.virtio_device cimport Device, Queue

from fastvhost.dataplane.ring import SENTENCES


# What is read from the ring's memory.
cdef struct QueueView:
    uint32_t avail_idx
    uint32_t used_idx
    uint32_t available
    bint kick_suppressed
    bint interrupt_wanted


class QueueState(NamedTuple):
    """One queue as a worker sees it now, for show and diagnosis."""

    index: int
    size: int
    live: bool
    started: bool
    enabled: bool
    broken: str
    avail_idx: int
    used_idx: int
    next_avail: int
    frames: int
    bytes: int
    kick_suppressed: bool
    interrupt_wanted: bool
    kicks: int
    starved_seconds: float
    available: int


cdef object state_of(const Device *device, uint32_t index, list kept, const Tally *tally):
    """A queue's state. kept: the GuestMemory objects that it may lie in; they stay mapped meanwhile."""
    cdef bint packed = False
    cdef Queue queue
    cdef const Ring *ring = &queue.ring
    cdef QueueView view
    for memory in kept:
        count_users(memory, 1)
    queue = snapshot(device, index, &packed)
    with nogil:
        view = look_at_queue(&queue, packed)
    for memory in kept:
        count_users(memory, -1)
    return QueueState(
        index=index,
        size=ring.size,
        live=queue.live,
        started=queue.live and queue.started,
        enabled=queue.enabled,
        broken=SENTENCES[<int>ring.status],
        avail_idx=view.avail_idx,
        used_idx=view.used_idx,
        next_avail=ring.next_avail,
        frames=tally.frames,
        bytes=tally.bytes,
        kick_suppressed=view.kick_suppressed,
        interrupt_wanted=view.interrupt_wanted,
        kicks=queue.kicks,
        starved_seconds=queue.starved_ns / 1e9,
        available=view.available,
    )


cdef int count_users(GuestMemory memory, int more) except -1:
    """more: 1, a reader begins; -1, it is done. The last user unmaps what was closed meanwhile."""
    cdef Mapping mapping
    for mapping in memory.mappings:
        mapping.users += more
        if mapping.closing and mapping.users == 0:
            mapping.unmap()
    return 0


cdef Queue snapshot(const Device *device, uint32_t index, bint *packed) noexcept:
    """A copy of a queue, taken while no change is being committed."""
    cdef Queue copy
    cdef uint32_t commits
    while True:
        commits = load_acquire_u32(&device.commits)
        copy, packed[0] = device.queues[index], device.packed
        full_fence()
        if not commits & 1 and commits == load_acquire_u32(&device.commits):
            return copy
        cpu_pause()


cdef QueueView look_at_queue(const Queue *queue, bint packed) noexcept nogil:
    cdef QueueView view = QueueView(0, 0, 0, False, False)
    cdef const Ring *ring = &queue.ring
    if queue.live and packed:
        # A packed ring has no index in its memory, only flags: these are the positions that we keep.
        view.avail_idx, view.used_idx = ring.next_avail + ring.has_work(ring), ring.next_used
        view.available = count_available(ring)
        view.kick_suppressed = (
            load_u16(&(<pvirtq_event_suppress *>ring.device_area).flags) == RING_EVENT_FLAGS_DISABLE
        )
        view.interrupt_wanted = (
            load_u16(&(<pvirtq_event_suppress *>ring.driver_area).flags) != RING_EVENT_FLAGS_DISABLE
        )
    elif queue.live:
        view.avail_idx = load_u16(&(<virtq_avail *>ring.driver_area).idx)
        view.used_idx = load_u16(&(<virtq_used *>ring.device_area).idx)
        view.available = min(<uint16_t>(view.avail_idx - ring.next_avail), ring.size)
        view.kick_suppressed = not ring.event_idx and load_u16(&(<virtq_used *>ring.device_area).flags) != 0
        view.interrupt_wanted = not (
            load_u16(&(<virtq_avail *>ring.driver_area).flags) & VIRTQ_AVAIL_F_NO_INTERRUPT
        )
    return view


cdef uint32_t count_available(const Ring *ring) noexcept nogil:
    """Descriptors of a packed ring from next_avail on that are available. Section 2.8.6.

    A driver makes them available in the order of the ring, so those that are come first, and a binary search finds
    where they end: 8 reads in a ring of 256. What a driver writes otherwise makes the count wrong, and nothing else.
    """
    cdef const pvirtq_desc *desc = <const pvirtq_desc *>ring.descriptor_area
    cdef uint32_t least = 0, most = ring.size, middle, at
    while least < most:
        middle = (least + most) >> 1
        at = ring.next_avail + middle
        if at >= ring.size:
            at -= ring.size
        if is_available(load_u16(&desc[at].flags), ring.avail_wrap == (at >= ring.next_avail)):
            least = middle + 1
        else:
            most = middle
    return least
