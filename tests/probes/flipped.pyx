"""A head in the available ring that changes all the time, while a device takes it again and again. Split rings."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_u16, store_release_u32, store_u16
from fastvhost.abi.virtio_ring cimport virtq_avail
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.frame cimport Chain, Segment
from fastvhost.dataplane.ring cimport RING_HEAD_BEYOND_QUEUE, RING_OK, Ring
from fastvhost.dataplane.virtio_port cimport VirtioPort

cdef uint32_t stopping = 0


def flip_head(VirtioPort port not None, uint32_t index, uint16_t other) -> None:
    """Write this head and the one that is there in turn, until take_flipped() has seen enough."""
    cdef Ring *ring = &port.queue(index).ring
    cdef uint16_t *entry = &(<virtq_avail *>ring.driver_area).ring[ring.next_avail & (ring.size - 1)]
    cdef uint16_t own = load_u16(entry)
    with nogil:
        while not load_acquire_u32(&stopping):
            store_u16(entry, other)
            store_u16(entry, own)
    store_release_u32(&stopping, 0)


def take_flipped(VirtioPort port not None, uint32_t index, uint32_t changes, double seconds) -> tuple[int, int]:
    """Take that chain and give it back until it was another one so many times, or so long.

    Returns the changes seen, and how often neither the head that is right was taken nor the other one refused.
    """
    cdef Ring *ring = &port.queue(index).ring
    cdef Chain chain
    cdef Segment segments[4]
    cdef uint32_t n_segments, n, seen = 0, wrong = 0, before = 0
    cdef uint64_t end = monotonic_ns() + <uint64_t>(seconds * 1e9)
    with nogil:
        while seen < changes and monotonic_ns() < end:
            n_segments = 0
            n = ring.take(ring, &chain, 1, segments, &n_segments)
            wrong += chain.ticket >= ring.size if n else ring.status != RING_HEAD_BEYOND_QUEUE
            seen += n != before
            before = n
            ring.untake(ring, &chain, n)
            ring.status = RING_OK
    store_release_u32(&stopping, 1)
    return seen, wrong
