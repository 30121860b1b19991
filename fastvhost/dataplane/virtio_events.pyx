"""What workers found of a virtio-net device since its control thread looked last: see VirtioPort.events()."""

from libc.stdint cimport uint32_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32
from fastvhost.dataplane.virtio_device cimport Device, Queue

from fastvhost.dataplane.ring import SENTENCES


cdef list take_events(Device *device, uint32_t n_queues):
    cdef uint32_t i
    cdef Queue *queue
    found = []
    for i in range(n_queues):
        queue = &device.queues[i]
        if is_new(&queue.found_started):
            found.append(("started", i, "its driver does not kick; buffers were found in it"))
        if is_new(&queue.found_broken):
            found.append(("broken", i, SENTENCES[<int>queue.ring.status]))
    if is_new(&device.found_slow):
        found.append((
            "slow_calls",
            -1,
            "its call descriptors take more than 20 us to signal, as with many thousand waiters; "
            "a thread of this port notifies it from now on",
        ))
    if is_new(&device.found_first_frame):
        found.append(("first_frame", -1, "first frame"))
    return found


cdef inline bint is_new(uint32_t *found) noexcept:
    """Whether a worker has set this flag since the last call. Clears it."""
    if not load_acquire_u32(found):
        return False
    store_release_u32(found, 0)
    return True
