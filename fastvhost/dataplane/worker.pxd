"""A worker: the thread that polls lanes."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.door cimport Door, Gate
from fastvhost.dataplane.forward cimport Lane
from fastvhost.dataplane.idle cimport Idle


cdef class Worker:
    cdef readonly str name
    cdef Door door
    cdef Gate gate
    cdef Idle idle
    cdef Lane **lanes
    cdef uint32_t n_lanes
    cdef list wires              # keeps their ports alive
    cdef uint64_t n_rounds       # written by the worker's thread
    cdef uint64_t n_busy
    cdef uint32_t round(self) noexcept nogil
    cdef void loop(self) noexcept nogil
