"""Where frames of a visit go."""

from fastvhost.dataplane.frame cimport Delivery
from fastvhost.dataplane.port cimport PortOps


# Frames for one egress. What is delivered of them is taken off at the front.
cdef struct Exit:
    PortOps *egress
    Delivery delivery
    bint may_wait            # for room, as long as its egress makes progress; else what finds none is dropped
    bint in_place            # all frames of the visit that wait, as they stand in the burst: released as they go
    bint spare               # a mirror's copies: what is not taken at once is dropped
    bint queued              # what finds no room is copied into a backlog (forward/backlog)
