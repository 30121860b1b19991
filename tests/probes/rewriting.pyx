"""A driver that rewrites its memory between the look at a frame and its copy, or all the time."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32, store_u64
from fastvhost.dataplane.frame cimport Delivery
from fastvhost.dataplane.port cimport Port, PortOps

cdef enum:
    MOST_PORTS = 16

ctypedef uint32_t (*DeliverBurst)(PortOps *, uint32_t, const Delivery *) noexcept nogil


# A port whose deliveries are announced, and what delivers to it.
cdef struct Announced:
    PortOps *port
    DeliverBurst deliver_burst


cdef Announced announced[MOST_PORTS]
cdef uint32_t n_announced = 0
cdef uint32_t stopping = 0
before = None


cdef uint32_t announce_and_deliver(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef uint32_t i, at = 0
    with gil:
        before()
    for i in range(n_announced):
        if announced[i].port == port:
            at = i
    return announced[at].deliver_burst(port, pair, delivery)


def call_before_delivery(ports: tuple[Port, ...], call) -> None:
    """From now on `call()` before each delivery to one of these ports, which close before others are given."""
    global before, n_announced
    cdef Port port
    if len(ports) > MOST_PORTS:
        raise ValueError(f"{len(ports)} ports, and there is room for {MOST_PORTS}")
    before, n_announced = call, 0
    for port in ports:
        announced[n_announced] = Announced(&port.ops, port.ops.deliver_burst)
        port.ops.deliver_burst = announce_and_deliver
        n_announced += 1


def rewrite_in_turn(uint8_t[::1] memory not None, uint64_t at, uint64_t one, uint64_t other) -> None:
    """Store these eight bytes at an offset, and those, until stop_rewriting()."""
    cdef uint64_t *word = <uint64_t *>&memory[at]
    with nogil:
        while not load_acquire_u32(&stopping):
            store_u64(word, one)
            store_u64(word, other)
    store_release_u32(&stopping, 0)


def stop_rewriting() -> None:
    store_release_u32(&stopping, 1)
