"""One direction of traffic as its workers see it: a lane for each queue pair of the ingress."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.bridge cimport Bridge
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.limit cimport Limit
from fastvhost.dataplane.forward.learner cimport Learner
from fastvhost.dataplane.port cimport Port


cdef class Wire:
    cdef readonly Port ingress
    cdef readonly Port egress    # None: nobody
    cdef readonly uint32_t shares
    cdef readonly Bridge bridge   # instead of an egress: all its ports
    cdef Lane *lanes
    cdef Limit limit             # of the ingress, if its lanes point to it
    cdef Learner *learners
    cdef uint32_t n_lanes
    cdef set claimed             # shares that have a worker
    cdef int learn_on(self, Bridge bridge) except -1
    cdef int claim(self, uint32_t share, object worker, Door door) except -1
    cdef int unclaim(self, uint32_t share, object worker) except -1
