"""A port that sends back what it gets: a ring of frames between the worker that delivers and the one that receives."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32
from fastvhost.abi.virtio_net cimport MAX_FRAME_BYTES
from fastvhost.dataplane.frame cimport BURST, Chain, Delivery, Done, FrameBurst
from fastvhost.dataplane.offload.finish cimport copy_finished
from fastvhost.dataplane.port cimport LOOK_AGAIN, Port, PortOps

cdef enum:
    SLOTS = 2 * BURST


cdef struct Ring:
    uint8_t *frames          # SLOTS, each with room for MAX_FRAME_BYTES
    uint32_t bytes[SLOTS]
    # written by the worker that delivers
    uint32_t delivered       # free-running, as the other two
    # written by the worker that receives
    uint32_t received
    uint32_t released


cdef inline uint8_t *place(Ring *ring, uint32_t number) noexcept nogil:
    return ring.frames + <size_t>(number % SLOTS) * MAX_FRAME_BYTES


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef Ring *ring = <Ring *>port.state
    cdef uint32_t room = SLOTS - (ring.delivered - load_acquire_u32(&ring.released)), i  # pairs with release_burst
    cdef uint32_t n = min(delivery.n, room)
    for i in range(n):
        copy_finished(place(ring, ring.delivered + i), delivery, &delivery.frames[i])
        ring.bytes[(ring.delivered + i) % SLOTS] = delivery.frames[i].bytes
        port.tx[pair].bytes += delivery.frames[i].bytes
    port.tx[pair].frames += n
    store_release_u32(&ring.delivered, ring.delivered + n)  # pairs with receive_burst
    return n


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef Ring *ring = <Ring *>port.state
    cdef uint32_t n = min(load_acquire_u32(&ring.delivered) - ring.received, <uint32_t>BURST), i, bytes
    for i in range(n):
        bytes = ring.bytes[ring.received % SLOTS]
        burst.frames[i] = Chain(place(ring, ring.received), bytes, ring.received, 0, 1, 0)
        ring.received += 1
        port.rx[pair].bytes += bytes
    port.rx[pair].frames += n
    burst.n_frames = n
    return n


cdef void release_burst(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    cdef Ring *ring = <Ring *>port.state
    store_release_u32(&ring.released, ring.released + n)  # pairs with deliver_burst


cdef int wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil:
    return LOOK_AGAIN


cdef bint has_work(PortOps *port, uint32_t pair) noexcept nogil:
    cdef Ring *ring = <Ring *>port.state
    return load_acquire_u32(&ring.delivered) != ring.received


cdef class LoopPort(Port):
    """Sends back what it gets, in order, as long as there is room for it."""

    cdef Ring *ring

    def __init__(self, str name) -> None:
        self.name = name
        self.allot(1)
        self.ring = <Ring *>calloc(1, sizeof(Ring))
        if self.ring == NULL:
            raise MemoryError
        self.ring.frames = <uint8_t *>malloc(<size_t>SLOTS * MAX_FRAME_BYTES)
        if self.ring.frames == NULL:
            raise MemoryError
        self.ops.state = self.ring
        self.ops.receive_burst, self.ops.deliver_burst, self.ops.release_burst = (
            receive_burst, deliver_burst, release_burst,
        )
        self.ops.may_receive = self.ops.has_silent_work = has_work
        self.ops.wait_fd = wait_fd

    def __dealloc__(self) -> None:
        if self.ring != NULL:
            free(self.ring.frames)
        free(self.ring)
