"""A worker: the thread that polls lanes."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.door cimport Door, Gate
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.waiting cimport Backlogs
from fastvhost.dataplane.idle cimport Idle
from fastvhost.dataplane.receiveq cimport NetScratch
from fastvhost.dataplane.notify cimport signals
from fastvhost.dataplane.offload.cut cimport Cutter
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.roster cimport Roster


# What a worker has of one wire.
cdef struct Part:
    Lane *lanes
    uint32_t n_lanes
    uint32_t share               # of this many, see Wire
    uint32_t shares


cdef class Worker:
    cdef readonly str name
    cdef Door door
    cdef Gate *gate              # NULL: it was never made, or is closed
    cdef bint occupied           # a thread is in run or step
    cdef Idle idle
    cdef signals signals         # made by prepare()
    cdef NetScratch *scratch     # of its thread
    cdef Cutter *cutter          # of its lanes
    cdef Backlogs *backlogs      # of receive queues that its lanes deliver to
    cdef Lane draining           # none of a port: where it is while it delivers a backlog
    cdef int thread              # its number, as /proc has it; 0: it does not run
    cdef Part *parts
    cdef uint32_t n_parts
    cdef Roster roster           # changes only while a change takes effect
    cdef list wires              # owners of the lanes, part by part
    cdef list shares             # and which share of each
    cdef uint64_t n_rounds       # written by the worker's thread
    cdef uint64_t n_busy
    cdef void end_epoll(self) noexcept
    cdef int require_idle(self, str what) except -1
    cdef void enlist_lanes(self) noexcept nogil
    cdef uint32_t round(self) noexcept nogil
    cdef void loop(self) noexcept nogil
