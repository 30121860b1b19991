"""Storm control: how many frames a second a port may send to everybody.

Broadcast and unknown unicast count, and multicast where that was asked for. What is beyond is dropped, so that one
guest cannot make all others receive its frames at full rate.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.drop_reason cimport STORM
from fastvhost.dataplane.forward.allowance cimport is_limited, take
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.learner cimport EVERYBODY, NOT_ON, Learner
from fastvhost.dataplane.forward.members cimport Member
from fastvhost.dataplane.mac_table cimport destination_key, is_broadcast, is_group
from fastvhost.dataplane.tally cimport count_drops


cdef void calm(Lane *lane, uint32_t n) noexcept nogil:
    """Drop those of n frames that go to everybody and are too many."""
    cdef Learner *learner = lane.learner
    cdef Member *sender = &learner.members.at[learner.number]
    cdef uint32_t i, flooded = 0, counted = 0, allowed
    if not is_limited(&sender.floods):
        return
    for i in range(n):
        flooded += learner.to[i] == EVERYBODY
    if flooded == 0:
        return
    for i in range(n):
        counted += counts(learner, sender, i)
    allowed = take(&sender.floods, learner.members.now_ns(), counted)
    if allowed == counted:
        return
    count_drops(&lane.ingress.rx[lane.pair], STORM, counted - allowed)
    for i in range(n):
        if not counts(learner, sender, i):
            continue
        if allowed:
            allowed -= 1
        else:
            learner.to[i] = NOT_ON


cdef inline bint counts(const Learner *learner, const Member *sender, uint32_t i) noexcept nogil:
    """Whether a frame is one of those that are limited."""
    cdef uint64_t destination
    if learner.to[i] != EVERYBODY:
        return False
    destination = destination_key(learner.starts[0 if learner.alike else i].bytes, 0)
    return sender.counts_multicast or not is_group(destination) or is_broadcast(destination)
