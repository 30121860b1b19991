"""What a queue's rings say now, for show and diagnosis. Virtio 1.2, sections 2.7 and 2.8.

The guest's memory may be slow to come, so it is read without the GIL; whoever does that counts as its user before.
"""

from fastvhost.abi.shared_memory cimport load_u16
from fastvhost.abi.virtio_packed cimport RING_EVENT_FLAGS_DISABLE, pvirtq_event_suppress
from fastvhost.abi.virtio_ring cimport VIRTQ_AVAIL_F_NO_INTERRUPT, virtq_avail, virtq_used
from fastvhost.dataplane.guest_memory cimport GuestMemory, Mapping
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.virtio_device cimport Queue


cdef int count_users(GuestMemory memory, int more) except -1:
    """One more or less who looks into it; the last one unmaps what was closed meanwhile."""
    cdef Mapping mapping
    for mapping in memory.mappings:
        mapping.users += more
        if mapping.closing and mapping.users == 0:
            mapping.unmap()
    return 0


cdef QueueView look_at_queue(const Queue *queue, bint packed) noexcept nogil:
    cdef QueueView view = QueueView(0, 0, False, False)
    cdef const Ring *ring = &queue.ring
    if queue.live and packed:
        # as far as we know it: a packed ring has no index, only marks
        view.avail_idx, view.used_idx = ring.next_avail + ring.has_work(ring), ring.next_used
        view.kick_suppressed = (
            load_u16(&(<pvirtq_event_suppress *>ring.device_area).flags) == RING_EVENT_FLAGS_DISABLE
        )
        view.interrupt_wanted = (
            load_u16(&(<pvirtq_event_suppress *>ring.driver_area).flags) != RING_EVENT_FLAGS_DISABLE
        )
    elif queue.live:
        view.avail_idx = load_u16(&(<virtq_avail *>ring.driver_area).idx)
        view.used_idx = load_u16(&(<virtq_used *>ring.device_area).idx)
        view.kick_suppressed = not ring.event_idx and load_u16(&(<virtq_used *>ring.device_area).flags) != 0
        view.interrupt_wanted = not (
            load_u16(&(<virtq_avail *>ring.driver_area).flags) & VIRTQ_AVAIL_F_NO_INTERRUPT
        )
    return view
