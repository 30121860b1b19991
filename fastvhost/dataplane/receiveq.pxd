"""Frames into receive buffers. Virtio 1.2, section 5.1.6.3."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.frame cimport Delivery, Chain, Done, Frame, Segment
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.tally cimport Tally


# A frame spread over more receive buffers than this is dropped as oversize.
cdef enum:
    MAX_RECEIVE_CHAINS = 1024


# Where an egress lays out receive chains before it copies. Nothing in it outlives one deliver. What is copied now is
# said for who looks on (hold_watch): that touches the memory of two guests at a time.
cdef struct NetScratch:
    Chain chains[MAX_RECEIVE_CHAINS]
    Done done[MAX_RECEIVE_CHAINS]
    Segment *segments        # MAX_SEGMENTS of them
    uint32_t copying         # frames, 0 between two copies: each into a chain, from the first ones on
    const Frame *alone       # or this one alone
    uint32_t chain           # into n_chains from this one on
    uint32_t n_chains


# How frames are written for the driver that receives them.
cdef struct Receiver:
    uint32_t header_bytes
    bint mergeable
    uint32_t accepts         # what its frames may need (Need)


cdef uint32_t deliver(
    Ring *ring, const Receiver *receiver, NetScratch *scratch, const Delivery *delivery, Tally *tally
) noexcept nogil
