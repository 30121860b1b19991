"""Workers: a thread that polls its lanes without the GIL until it is stopped."""

import os
from typing import NamedTuple

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32, store_release_u32
from fastvhost.dataplane.door cimport Door, pass_gate, wake
from fastvhost.dataplane.forward cimport Lane, forward_burst
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Segment
from fastvhost.dataplane.idle cimport IDLE_ADAPTIVE, IDLE_INTERRUPT, IDLE_POLL, pollfd, rest
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.virtio_device cimport leave_thread


cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long value)
    const int PR_SET_TIMERSLACK

_POLICIES = {"poll": IDLE_POLL, "adaptive": IDLE_ADAPTIVE, "interrupt": IDLE_INTERRUPT}


class Wire(NamedTuple):
    """One direction: frames that arrive at ingress leave at egress."""

    ingress: Port
    egress: Port | None


cdef class Worker:
    """Polls lanes, one burst each in turn, until stopped."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.gate.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __init__(
        self, Door door not None, str name="worker", *, idle: str = "poll", uint32_t nap_us=50
    ) -> None:
        if self.door is not None:
            raise ValueError(f"{self.name}: a worker is made once")
        if idle not in _POLICIES:
            raise ValueError(f"{name}: idle {idle!r} is none of {', '.join(_POLICIES)}")
        self.idle.policy, self.idle.nap_ns = _POLICIES[idle], nap_us * 1000
        self.door, self.name, self.wires = door, name, []
        door.add(&self.gate, self)

    def __dealloc__(self) -> None:
        cdef uint32_t i
        for i in range(self.n_lanes):
            free(self.lanes[i].burst.segments)
            free(self.lanes[i])
        free(self.lanes)
        free(self.idle.fds)
        if self.gate.wake_fd >= 0:
            close(self.gate.wake_fd)

    def add_wire(self, Port ingress not None, Port egress, *, bint hold, uint64_t hold_timeout_ms) -> Wire:
        cdef uint32_t pair
        cdef Lane *lane
        cdef Lane **grown
        cdef pollfd *fds
        if self.running:
            raise ValueError(f"{self.name} runs; wires are added before it starts")
        wire = Wire(ingress, egress)
        self.wires.append(wire)
        for pair in range(ingress.face.n_pairs):
            grown = <Lane **>realloc(self.lanes, (self.n_lanes + 1) * sizeof(Lane *))
            if grown == NULL:
                raise MemoryError
            self.lanes = grown
            fds = <pollfd *>realloc(self.idle.fds, (self.n_lanes + 2) * sizeof(pollfd))
            if fds == NULL:
                raise MemoryError
            self.idle.fds = fds
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
        prctl(PR_SET_TIMERSLACK, 1)  # a nap is as long as it says; ns
        while not load_acquire_u32(&self.gate.stopping):
            pass_gate(&self.gate)
            if self.round():
                self.idle.since = 0
            else:
                rest(&self.idle, &self.gate, self.lanes, self.n_lanes)
        leave_thread()
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
        store_release_u32(&self.gate.stopping, 1)
        full_fence()  # pairs with the one before the worker sleeps
        wake(&self.gate)

    def close(self) -> None:
        if self.running:
            raise ValueError(f"{self.name} runs; stop it and wait for its thread first")
        self.door.remove(&self.gate, self)
        if self.gate.wake_fd >= 0:
            close(self.gate.wake_fd)
            self.gate.wake_fd = -1

    @property
    def running(self) -> bool:
        return load_acquire_u32(&self.gate.running) != 0

    @property
    def rounds(self) -> int:
        return self.n_rounds

    @property
    def sleeps(self) -> int:
        return self.idle.sleeps

    @property
    def busy_rounds(self) -> int:
        return self.n_busy
