"""Workers: a thread that polls its lanes without the GIL until it is stopped."""

from typing import NamedTuple

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from fastvhost.abi.shared_memory cimport cpu_pause, load_acquire_u32, store_release_u32
from fastvhost.dataplane.door cimport Door, pass_gate
from fastvhost.dataplane.forward cimport Lane, forward_burst
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Segment
from fastvhost.dataplane.port cimport Port


class Wire(NamedTuple):
    """One direction: frames that arrive at ingress leave at egress."""

    ingress: Port
    egress: Port | None


cdef class Worker:
    """Polls lanes, one burst each in turn, until stopped."""

    def __init__(self, Door door not None, str name="worker") -> None:
        if self.door is not None:
            raise ValueError(f"{self.name}: a worker is made once")
        self.door, self.name, self.wires = door, name, []
        door.add(&self.gate, self)

    def __dealloc__(self) -> None:
        cdef uint32_t i
        for i in range(self.n_lanes):
            free(self.lanes[i].burst.segments)
            free(self.lanes[i])
        free(self.lanes)

    def add_wire(self, Port ingress not None, Port egress, *, bint hold, uint64_t hold_timeout_ms) -> Wire:
        cdef uint32_t pair
        cdef Lane *lane
        cdef Lane **grown
        if self.running:
            raise ValueError(f"{self.name} runs; wires are added before it starts")
        wire = Wire(ingress, egress)
        self.wires.append(wire)
        for pair in range(ingress.face.n_pairs):
            grown = <Lane **>realloc(self.lanes, (self.n_lanes + 1) * sizeof(Lane *))
            if grown == NULL:
                raise MemoryError
            self.lanes = grown
            lane = <Lane *>calloc(1, sizeof(Lane))
            if lane == NULL:
                raise MemoryError
            lane.burst.segments = <Segment *>malloc(MAX_SEGMENTS * sizeof(Segment))
            lane.ingress, lane.pair = &ingress.face, pair
            lane.egress = NULL if egress is None else &egress.face
            lane.hold, lane.hold_ns = hold, hold_timeout_ms * 1000000
            self.lanes[self.n_lanes] = lane
            self.n_lanes += 1
            if lane.burst.segments == NULL:
                raise MemoryError
        return wire

    cdef uint32_t round(self) noexcept nogil:
        """One burst for each lane. Returns the frames moved."""
        cdef uint32_t i, moved = 0
        for i in range(self.n_lanes):
            moved += forward_burst(self.lanes[i])
        self.n_rounds += 1
        self.n_busy += moved != 0
        return moved

    cdef void loop(self) noexcept nogil:
        while not load_acquire_u32(&self.stopping):
            pass_gate(&self.gate)
            if self.round() == 0:
                cpu_pause()
        store_release_u32(&self.gate.running, 0)  # pairs with Door.close

    def run(self) -> None:
        if self.running:
            raise ValueError(f"{self.name} runs already")
        store_release_u32(&self.gate.running, 1)
        with nogil:
            self.loop()

    def step(self) -> int:
        if self.running:
            raise ValueError(f"{self.name} runs; step is for a worker that does not")
        return self.round()

    def stop(self) -> None:
        store_release_u32(&self.stopping, 1)

    @property
    def running(self) -> bool:
        return load_acquire_u32(&self.gate.running) != 0

    @property
    def rounds(self) -> int:
        return self.n_rounds

    @property
    def busy_rounds(self) -> int:
        return self.n_busy
