"""One direction of traffic, and how its queue pairs are shared out among workers.

A pair of ports that the operator joins has two of these objects, one a direction. With N shares, share i has the pairs
i, i + N, i + 2 N and so on of the ingress.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastvhost.dataplane.bridge cimport Bridge
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.forward.allowance cimport set_allowance
from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.learn cimport plan_learn
from fastvhost.dataplane.forward.learner cimport Learner
from fastvhost.dataplane.forward.limit cimport Limit
from fastvhost.dataplane.forward.patch cimport plan_patch
from fastvhost.dataplane.forward.starts cimport MAX_SPLICED
from fastvhost.dataplane.frame cimport BURST, MAX_SEGMENTS, Segment, begin_heads
from fastvhost.dataplane.port cimport Port

# What may come at once beyond a limit: what it gives in so many seconds, a super-frame or a burst of frames at least.
BURST_SECONDS = 0.01
LEAST_BURST = 65536


cdef class Wire:
    """Frames that arrive at ingress leave at egress."""

    def __init__(
        self, Port ingress not None, Port egress, *, bint hold, uint64_t hold_timeout_ms, uint32_t shares=1,
        Bridge bridge=None
    ) -> None:
        cdef uint32_t pair
        if self.lanes != NULL:
            raise ValueError("a wire is made once")
        if shares < 1:
            raise ValueError("a wire has one share at least")
        for port in (ingress, egress):
            if port is not None and not (<Port>port).ops.n_pairs:
                raise ValueError("a wire joins ports that were made: call __init__ of a port first")
        if ingress.polled:
            raise ValueError(f"port {ingress.name} is the ingress of another wire already; give it one wire")
        self.lanes = <Lane *>calloc(ingress.ops.n_pairs, sizeof(Lane))
        if self.lanes == NULL:
            raise MemoryError
        self.ingress, self.egress, self.shares = ingress, egress, shares
        self.n_lanes = ingress.ops.n_pairs
        ingress.polled = True
        for pair in range(self.n_lanes):
            lane = &self.lanes[pair]
            # A megabyte of address space; memory is used only for what frames in pieces write there.
            lane.burst.segments = <Segment *>malloc(MAX_SEGMENTS * sizeof(Segment))
            if lane.burst.segments == NULL:
                raise MemoryError
            begin_heads(&lane.burst)
            lane.ingress, lane.pair = &ingress.ops, pair
            lane.egress = NULL if egress is None else &egress.ops
            lane.hold, lane.hold_ns = hold, hold_timeout_ms * 1000000
            lane.plan, lane.exits = plan_patch, &lane.lone
        if bridge is not None:
            self.learn_on(bridge)

    cdef int learn_on(self, Bridge bridge) except -1:
        """Frames leave at all ports of a bridge."""
        cdef uint32_t pair, number = bridge.number(self.ingress), n_exits = 2 * BURST * bridge.room() + 1
        cdef Learner *learner
        self.bridge = bridge
        self.learners = <Learner *>calloc(self.n_lanes, sizeof(Learner))
        if self.learners == NULL:
            raise MemoryError
        for pair in range(self.n_lanes):
            learner = &self.learners[pair]
            learner.members, learner.number = &bridge.members, number
            learner.splicer.segments = <Segment *>malloc(MAX_SPLICED * sizeof(Segment))
            self.lanes[pair].plan, self.lanes[pair].learner = plan_learn, learner
            # At the worst, each frame of a burst is in a VLAN of its own and leaves at every port.
            self.lanes[pair].exits = <Exit *>malloc(n_exits * sizeof(Exit))
            if learner.splicer.segments == NULL or self.lanes[pair].exits == NULL:
                raise MemoryError
        return 0

    def set_limit(self, *, double bits=0, double frames=0, double burst=0) -> None:
        cdef uint32_t pair
        cdef Limit *limit = &self.limit
        if limit.now_ns == NULL:
            limit.now_ns = monotonic_ns
        set_allowance(&limit.bytes, bits / 8, burst or max(bits / 8 * BURST_SECONDS, LEAST_BURST))
        set_allowance(&limit.frames, frames, max(frames * BURST_SECONDS, BURST))
        if bits or frames:
            for pair in range(self.n_lanes):
                self.lanes[pair].limit = limit   # for good: a worker may just be reading it

    cdef int claim(self, uint32_t share, object worker, Door door) except -1:
        """A worker takes this share. All wires to one egress have as many shares; share i of each is the same worker's.

        So no queue ever has two workers. Raises ValueError.
        """
        cdef Port egress = self.egress
        if share >= self.shares:
            raise ValueError(f"{worker.name}: share {share} of a wire that has shares 0 to {self.shares - 1}")
        if share in self.claimed:
            raise ValueError(f"{worker.name}: share {share} of the wire from port {self.ingress.name} has its worker")
        for port in (self.ingress, egress, *(() if self.bridge is None else self.bridge.ports)):
            if port is not None and (<Port>port).door is not None and (<Port>port).door is not door:
                raise ValueError(f"{worker.name} and port {port.name} have different doors; make both with one Door")
        if egress is not None and egress.door is not None:
            if egress.delivering and egress.shares != self.shares:
                raise ValueError(f"port {egress.name}: wires that lead to it have {egress.shares} shares each")
            if egress.delivering.get(share, worker) is not worker:
                raise ValueError(f"port {egress.name}: {egress.delivering[share].name} delivers to share {share} of it")
            egress.delivering[share], egress.shares = worker, self.shares
        if self.bridge is not None:
            self.bridge.claim(worker)
        self.claimed.add(share)
        return 0

    cdef int unclaim(self, uint32_t share, object worker) except -1:
        """The worker was closed: another one may take the share."""
        self.claimed.discard(share)
        if self.bridge is not None:
            self.bridge.unclaim(worker)
        if self.egress is not None and self.egress.delivering.get(share) is worker:
            del self.egress.delivering[share]
        return 0

    def __cinit__(self, *args, **kwargs) -> None:
        self.claimed = set()

    def __dealloc__(self) -> None:
        cdef uint32_t pair
        if self.lanes != NULL and self.ingress is not None:
            self.ingress.polled = False
        for pair in range(self.n_lanes):
            free(self.lanes[pair].burst.segments)
            if self.learners != NULL:
                free(self.learners[pair].splicer.segments)
                free(self.lanes[pair].exits if self.lanes[pair].learner != NULL else NULL)
        free(self.learners)
        free(self.lanes)
