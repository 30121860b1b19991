"""One direction of traffic, and how its queue pairs are shared out among workers."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastvhost.dataplane.forward cimport Lane
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Segment
from fastvhost.dataplane.port cimport Port


cdef class Wire:
    """Frames that arrive at ingress leave at egress."""

    def __init__(
        self, Port ingress not None, Port egress, *, bint hold, uint64_t hold_timeout_ms, uint32_t shares=1
    ) -> None:
        cdef uint32_t pair
        if self.lanes != NULL:
            raise ValueError("a wire is made once")
        if shares < 1:
            raise ValueError("a wire has one share at least")
        self.ingress, self.egress, self.shares = ingress, egress, shares
        self.lanes = <Lane *>calloc(ingress.face.n_pairs, sizeof(Lane))
        if self.lanes == NULL:
            raise MemoryError
        self.n_lanes = ingress.face.n_pairs
        for pair in range(self.n_lanes):
            lane = &self.lanes[pair]
            # A megabyte of addresses, of which only frames in pieces touch the first pages.
            lane.burst.segments = <Segment *>malloc(MAX_SEGMENTS * sizeof(Segment))
            if lane.burst.segments == NULL:
                raise MemoryError
            lane.ingress, lane.pair = &ingress.face, pair
            lane.egress = NULL if egress is None else &egress.face
            lane.hold, lane.hold_ns = hold, hold_timeout_ms * 1000000

    def __dealloc__(self) -> None:
        cdef uint32_t pair
        for pair in range(self.n_lanes):
            free(self.lanes[pair].burst.segments)
        free(self.lanes)
