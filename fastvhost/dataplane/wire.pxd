"""One direction of traffic as its workers see it: a lane for each queue pair of the ingress."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.port cimport Port


cdef class Wire:
    cdef readonly Port ingress
    cdef readonly Port egress    # None: nobody
    cdef readonly uint32_t shares
    cdef Lane *lanes
    cdef uint32_t n_lanes
    cdef set claimed             # shares that have a worker
    cdef int claim(self, uint32_t share, object worker, Door door) except -1
    cdef int unclaim(self, uint32_t share, object worker) except -1
