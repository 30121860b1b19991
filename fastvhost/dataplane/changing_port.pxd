"""Ports that change at the door. Setters write down the new state; it takes effect in one step, whole or not at all.

A kind of port prepares a struct of its own, which `apply` copies to where workers read it. The kind keeps what old and
new state point to until it is told that no worker uses the old state (has_changed), or the new one (forget).
"""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.door cimport Apply
from fastvhost.dataplane.port cimport Port


cdef class ChangingPort(Port):
    # set once, by the kind
    cdef Apply apply             # puts the written state into effect: copies fields
    cdef void *written           # the argument of `apply`
    # of its control thread
    cdef bint changing           # between begin() and the end of that change
    # to be implemented by each kind
    cdef bint has_plan(self) noexcept       # whether the written state changes anything
    cdef int has_changed(self) except -1    # it has taken effect: begin a new one
    cdef int forget(self) except -1         # it was dropped
    # for each kind to use
    cdef bint recall(self) except -1
    cdef bint take_effect(self, uint64_t wait_ns) except -1
    cdef int settle(self, double seconds) except -1
