"""The step in which a virtio-net device becomes what its control thread has prepared. See virtio_change.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport add_u32, load_acquire_u32, store_release_u32
from fastvhost.dataplane.guest_memory cimport RegionTable, host_of_user
from fastvhost.dataplane.journal cimport Journal
from fastvhost.dataplane.notify cimport judge_anew
from fastvhost.dataplane.offload.header cimport needs_allowed
from fastvhost.dataplane.packed_journal cimport FoundPlace, begin_journal, find_place, was_in_use
from fastvhost.dataplane.packed_marks cimport place_of
from fastvhost.dataplane.packed_ring cimport (
    packed_ring_base,
    packed_ring_start,
    reset_packed_ring,
    rewind_packed_ring,
)
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ring cimport RING_OUTSIDE_MEMORY, Ring
from fastvhost.dataplane.split_ring cimport reset_split_ring, rewind_split_ring, split_ring_base
from fastvhost.dataplane.virtio_device cimport Device, Queue, end_reports

# The base of a packed ring that was never used, index 0 and wrap counter 1: in both halves, or in the lower one alone.
cdef enum:
    FRESH_PLACE = 1 << 15


cdef void begin_change(DeviceChange *change, const Device *device) noexcept nogil:
    """Fill in a change with what workers see now."""
    cdef uint32_t i
    cdef QueueChange *one
    change.touched = change.takes_back = change.link_changes = False
    change.link_up, change.features, change.receiver = device.link_up, device.features, device.receiver
    change.packed = device.packed
    for i in range(change.n_queues):
        one = &change.queues[i]
        one.forgets = NULL
        one.touched = one.stops = one.starts = one.resumes = one.kicks = one.calls = one.lost = False
    change.begun = True


cdef Queue *touch(DeviceChange *change, const Device *device, uint32_t index) noexcept nogil:
    """The queue as it is to become, for writing."""
    cdef QueueChange *one = &change.queues[index]
    if not one.touched:
        one.queue = device.queues[index]  # fields that its worker writes are not written back
        one.touched = change.touched = True
    return &one.queue


cdef Placement place(Queue *queue, const RegionTable *table, bint packed) noexcept nogil:
    """Translate the addresses that a front-end gave for a queue. table NULL: no memory. Unless PLACED, no change."""
    cdef Ring *ring = &queue.ring
    cdef uint64_t size = ring.size, event_bytes = 2 if ring.event_idx else 0
    cdef uint64_t driver_bytes = 4 if packed else 4 + 2 * size + event_bytes
    cdef uint64_t device_bytes = 4 if packed else 4 + 8 * size + event_bytes
    cdef uint8_t *descriptors
    cdef uint8_t *driver
    cdef uint8_t *device
    if table == NULL:
        return OUTSIDE_MEMORY
    descriptors = host_of_user(table, queue.descriptor_user_addr, 16 * size)
    driver = host_of_user(table, queue.driver_user_addr, driver_bytes)
    device = host_of_user(table, queue.device_user_addr, device_bytes)
    if descriptors == NULL or driver == NULL or device == NULL:
        return OUTSIDE_MEMORY
    # The alignment of each part: sections 2.7 and 2.8.10.
    if <uint64_t>descriptors % 16 or <uint64_t>driver % (4 if packed else 2) or <uint64_t>device % 4:
        return MISALIGNED
    ring.descriptor_area, ring.driver_area, ring.device_area = descriptors, driver, device
    ring.table, ring.hot_region = table, 0
    return PLACED


cdef RingStart start_ring(
    DeviceChange *change, const Device *device, Queue *fresh, uint32_t base, bint resumes, Journal *journal
) noexcept nogil:
    """Set the position of a placed ring: this base, or where its journal says that an earlier process left it.

    journal: of this ring, or NULL. resumes: the base is where this process stopped it.
    """
    cdef QueueChange *one = &change.queues[fresh.index]
    cdef Ring *ring = &fresh.ring
    cdef bint unknowing = base == FRESH_PLACE or base == (FRESH_PLACE | <uint32_t>FRESH_PLACE << 16)
    cdef FoundPlace found
    if not change.packed:
        reset_split_ring(ring, base)
        return AS_TOLD
    reset_packed_ring(ring, packed_ring_start(ring, base))
    ring.journal = journal
    one.said, one.start = base, FoundPlace(True, place_of(ring.next_used, ring.used_wrap), 0, False)
    if resumes or device.queues[fresh.index].live:
        return AS_TOLD
    if journal != NULL and is_about(journal, fresh) and (unknowing or base == 0 or base == journal.base):
        found = find_place(ring, journal)
        if found.believed:
            one.start = found
            reset_packed_ring(ring, found.place | <uint32_t>found.place << 16)
            return WENT_ON
    return LEFT_STANDING if unknowing and was_in_use(ring) else AS_TOLD


cdef inline bint is_about(const Journal *journal, const Queue *queue) noexcept nogil:
    return (
        load_acquire_u32(&journal.size) == queue.ring.size
        and journal.descriptor_user_addr == queue.descriptor_user_addr
        and journal.driver_user_addr == queue.driver_user_addr
        and journal.device_user_addr == queue.device_user_addr
    )


cdef uint32_t ring_base(const Ring *ring, bint packed) noexcept nogil:
    """What GET_VRING_BASE returns."""
    return packed_ring_base(ring) if packed else split_ring_base(ring)


cdef void commit_change(void *prepared) noexcept nogil:
    """Put a DeviceChange into effect. Called while all workers that own lanes of this port are at the door."""
    cdef DeviceChange *change = <DeviceChange *>prepared
    cdef PortOps *port = change.port
    cdef Device *device = change.device
    cdef uint32_t i
    add_u32(&device.commits, 1)  # odd: whoever reads at the same time reads again
    for i in range(change.n_queues):
        end_reports(&device.queues[i])
    port.changes += 1
    if change.takes_back:
        rewind_rings(port, device, change.n_queues)
    for i in range(change.n_queues):
        if change.queues[i].starts and begins_elsewhere(&device.queues[i], &change.queues[i], device.packed):
            port.lives += 1
        if not i & 1 and (change.queues[i].stops or change.queues[i].starts or change.queues[i].lost):
            port.stops[i >> 1] += 1
        if change.queues[i].touched:
            commit_queue(&device.queues[i], &change.queues[i], device.packed)
    port.lives += change.link_changes
    if change.link_changes:
        device.seen_frame, device.kick_samples = False, 0  # both were about the front-end before
        judge_anew(device.asked)
    device.link_up, device.features, device.receiver = change.link_up, change.features, change.receiver
    device.packed = change.packed
    device.allowed, port.accepts = needs_allowed(change.features), change.receiver.accepts
    port.active_pairs = active_pairs(device, change.n_queues // 2)
    add_u32(&device.commits, 1)


cdef inline bint begins_elsewhere(const Queue *queue, const QueueChange *change, bint packed) noexcept nogil:
    """Whether it starts elsewhere than where it stopped: then frames that it had handed out do not come again."""
    return ring_base(&queue.ring, packed) != ring_base(&change.queue.ring, packed)


cdef void rewind_rings(PortOps *port, Device *device, uint32_t n_queues) noexcept nogil:
    """Take back all frames of this port that workers hold; live queues hand them out again."""
    cdef uint32_t i
    port.epoch += 1
    for i in range(n_queues):
        if device.queues[i].live and device.packed:
            rewind_packed_ring(&device.queues[i].ring)
        elif device.queues[i].live:
            rewind_split_ring(&device.queues[i].ring)


cdef void commit_queue(Queue *queue, QueueChange *change, bint packed) noexcept nogil:
    """packed: the format of the queue before the change."""
    cdef Queue *new = &change.queue
    if change.stops or change.lost:
        change.base = ring_base(&queue.ring, packed)
    if change.forgets != NULL:
        store_release_u32(&change.forgets.size, 0)
        queue.ring.journal = NULL
    if change.starts:
        if change.resumes:
            go_on(&new.ring, &queue.ring)
        elif new.ring.journal != NULL:
            begin_journal(
                new.ring.journal, new.descriptor_user_addr, new.driver_user_addr, new.device_user_addr, new.ring.size,
                change.said, &change.start,
            )
        new.found_started = new.found_broken = 0
        new.calls, new.kicks, new.reports_to = queue.calls, queue.kicks, -1
        new.short_since, new.starved_ns = 0, queue.starved_ns
        queue[0] = new[0]
        return
    queue.live, queue.enabled, queue.kicked = new.live, new.enabled, new.kicked
    queue.call_fd, queue.call_is_socket, queue.kick_fd = new.call_fd, new.call_is_socket, new.kick_fd
    queue.ring.descriptor_area, queue.ring.driver_area = new.ring.descriptor_area, new.ring.driver_area
    queue.ring.device_area, queue.ring.table = new.ring.device_area, new.ring.table
    queue.ring.hot_region = 0
    if change.lost:
        queue.ring.status = RING_OUTSIDE_MEMORY
    if change.kicks:
        queue.started = True


cdef void go_on(Ring *ring, const Ring *stopped) noexcept nogil:
    """Give a ring the position of a stopped one of the same size and format, which has nothing outstanding."""
    ring.next_avail, ring.avail_wrap = stopped.next_avail, stopped.avail_wrap
    ring.known_avail = stopped.next_avail
    ring.next_used, ring.used_wrap = stopped.next_used, stopped.used_wrap
    ring.published = stopped.next_used


cdef uint32_t active_pairs(const Device *device, uint32_t n_pairs) noexcept nogil:
    """How many pairs, from 0 on, have a receiveq that takes frames; 1 at least."""
    cdef uint32_t active = 0
    while active < n_pairs and device.queues[2 * active].live and device.queues[2 * active].enabled:
        active += 1
    return max(active, 1)
