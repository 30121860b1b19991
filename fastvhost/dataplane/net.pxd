"""Frames and virtio-net chains. Virtio 1.2, sections 5.1.6.2 (transmission) and 5.1.6.3 (receive buffers)."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.frame cimport FrameBurst, Chain, Done, Frame, Segment
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


cdef uint32_t strip_headers(FrameBurst *burst, uint32_t n, uint32_t header_bytes, Tally *tally) noexcept nogil
cdef uint32_t deliver(
    Ring *ring, uint32_t header_bytes, bint mergeable, NetScratch *scratch,
    const Frame *frames, const Segment *segments, uint32_t n, Tally *tally
) noexcept nogil
