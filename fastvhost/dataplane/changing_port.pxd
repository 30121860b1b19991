"""Ports that change at the door. Setters write down what is to be; all of it takes effect in one step, or not at all.

A kind of port prepares a struct of its own and says by `apply` how workers come to see it. It keeps what the struct
points to until it is told that no worker sees the state before (has_changed), or that none sees the new one (forget).
"""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.door cimport Apply
from fastvhost.dataplane.port cimport Port


cdef class ChangingPort(Port):
    # set once, by the kind
    cdef Apply apply             # puts what is written down into effect: copies fields
    cdef void *written           # what `apply` is given
    # of its control thread
    cdef bint changing           # between begin() and the end of that change
    # what a kind fills in
    cdef bint has_plan(self) noexcept       # whether something is written down that changes anything
    cdef int has_changed(self) except -1    # it has taken effect, and is to be written down anew
    cdef int forget(self) except -1         # it will not
    # what it uses
    cdef bint recall(self) except -1
    cdef bint take_effect(self, uint64_t wait_ns) except -1
    cdef int settle(self, double seconds) except -1
