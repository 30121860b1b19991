"""The data plane's small steps in loops of their own, so that a benchmark measures them and not Python's calls.

The same 64 ring entries are used again and again: cursors are put back after each turn. No driver runs meanwhile.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.abi.virtio_ring cimport VIRTQ_DESC_BYTES
from fastvhost.dataplane.copy cimport choose_copy_level, copy_frames, frame_copy
from fastvhost.dataplane.forward.forward cimport forward_burst
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.frame cimport BURST, MAX_SEGMENTS, Chain, Done, Segment
from fastvhost.dataplane.guest_memory cimport GuestMemory, Region, find_region, in_region
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.virtio_port cimport VirtioPort
from fastvhost.dataplane.worker cimport Worker

choose_copy_level()
HEADER_BYTES = 12
FRAMES = BURST


cdef Ring *ring_of(VirtioPort port, int index) except NULL:
    return &port.queue(index).ring


def take_chains(VirtioPort port not None, int index, int turns):
    """Resolve the 64 chains at the cursor, `turns` times. Returns how many the last turn found."""
    cdef Ring *ring = ring_of(port, index)
    cdef Chain chains[BURST]
    cdef Segment *segments = <Segment *>malloc(MAX_SEGMENTS * sizeof(Segment))
    cdef uint32_t n_segments, n = 0
    cdef int _turn
    if segments == NULL:
        raise MemoryError
    with nogil:
        for _turn in range(turns):
            n_segments = 0
            n = ring.take(ring, chains, BURST, segments, &n_segments)
            ring.untake(ring, chains, n)
    free(segments)
    return n


def complete_and_publish(VirtioPort port not None, int index, int turns):
    """Stage 64 used entries and publish them once, `turns` times. Returns how often the driver wanted to be told."""
    cdef Ring *ring = ring_of(port, index)
    cdef Ring before = ring[0]
    cdef Done done[BURST]
    cdef uint32_t wanted = 0
    cdef int _turn
    memset(done, 0, sizeof(done))
    with nogil:
        for _turn in range(turns):
            ring.outstanding = BURST
            ring.complete(ring, done, BURST)
            wanted += ring.publish(ring)
            ring[0] = before
    return wanted


def translate(GuestMemory memory not None, list guest_addrs, uint32_t n_bytes, int turns):
    """Look every address up, `turns` times. Returns how many of them were found in the last turn."""
    cdef uint64_t addrs[BURST]
    cdef const Region *region
    cdef uint32_t n = len(guest_addrs), found = 0, k
    cdef int _turn
    if n > BURST:
        raise ValueError(f"{n} addresses, {BURST} fit")
    for k in range(n):
        addrs[k] = guest_addrs[k]
    with nogil:
        for _turn in range(turns):
            found = 0
            for k in range(n):
                region = find_region(&memory.table, addrs[k])
                found += region != NULL and in_region(region, addrs[k], n_bytes) != NULL
    return found


def copy_bursts(uint32_t n_bytes, int turns):
    """Copy 64 frames and write their headers, `turns` times, between buffers as guests have them."""
    cdef uint64_t stride = (n_bytes + 75) // 64 * 64 | 64
    cdef uint8_t *memory = <uint8_t *>malloc(2 * BURST * stride)
    cdef frame_copy list[BURST]
    cdef NetHeader plain = NetHeader(0, 0, 0, 0, 0, 0, 1)
    cdef int _turn, i
    if memory == NULL:
        raise MemoryError
    memset(memory, 1, 2 * BURST * stride)
    for i in range(BURST):
        list[i] = frame_copy(memory + i * stride, memory + (BURST + i) * stride + 12, n_bytes, 12, &plain)
    with nogil:
        for _turn in range(turns):
            copy_frames(list, BURST)
    free(memory)


def forward_again(Worker worker not None, VirtioPort ingress not None, VirtioPort egress not None, int turns):
    """One burst over the worker's first lane, `turns` times, the same one. Returns the frames of the last turn.

    ingress and egress are that lane's ports, their rings new; the ingress guest must have made 64 frames available,
    each of one buffer. A packed ring's descriptors are put back as well: 2 KiB a burst, which is in the figure.
    """
    cdef Lane *lane = &worker.parts[0].lanes[0]
    cdef Ring *transmitq = ring_of(ingress, 1)
    cdef Ring *receiveq = ring_of(egress, 0)
    cdef Ring before_transmitq = transmitq[0], before_receiveq = receiveq[0]
    cdef uint8_t transmit_descs[BURST * VIRTQ_DESC_BYTES]
    cdef uint8_t receive_descs[BURST * VIRTQ_DESC_BYTES]
    cdef uint32_t n = 0
    cdef int _turn
    memcpy(transmit_descs, transmitq.descriptor_area, sizeof(transmit_descs))
    memcpy(receive_descs, receiveq.descriptor_area, sizeof(receive_descs))
    with nogil:
        for _turn in range(turns):
            n = forward_burst(lane)
            transmitq[0] = before_transmitq
            receiveq[0] = before_receiveq
            if ingress.device.packed:
                memcpy(transmitq.descriptor_area, transmit_descs, sizeof(transmit_descs))
                memcpy(receiveq.descriptor_area, receive_descs, sizeof(receive_descs))
    return n
