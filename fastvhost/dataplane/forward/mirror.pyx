"""Mirrors: copies of what a port sends and receives go to another one.

A copy is one exit more, behind all others. It waits for nothing: what its port does not take at once is dropped there
as mirror_full. Copies are not copied again. What a mirror sends itself is not copied to it; what is sent to it by a
port that it mirrors, it gets once, as a copy.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.members cimport Member, Members
from fastvhost.dataplane.frame cimport Delivery


cdef void add_mirrors(Lane *lane, Delivery sent) noexcept nogil:
    """The plan of a visit is ready but for these. sent: all of its frames, as they were sent."""
    cdef const Members *members = lane.learner.members
    cdef Member *sender = &members.at[lane.learner.number]
    cdef uint64_t copies = 0
    cdef uint32_t i, port, n = lane.n_exits
    if sender.mirror != NULL:
        copies -= take_off(lane, sender.mirror)
        n = lane.n_exits
        copies += copy_to(lane, sender.mirror, Exit(sender.mirror.port, sent, False, False, True, False))
    for port in range(members.n):
        if members.at[port].mirror == NULL or members.at[port].mirror == sender:
            continue
        for i in range(n):
            if lane.exits[i].egress == members.at[port].port:
                copies += copy_to(lane, members.at[port].mirror, lane.exits[i])
    if lane.n_exits != n:
        # The sender's chains must stay until the last copy is made.
        for i in range(n):
            lane.exits[i].in_place = False
    lane.ingress.rx[lane.pair].copies += copies


cdef uint32_t take_off(Lane *lane, const Member *mirror) noexcept nogil:
    """Remove the exits to a mirror, which gets those frames as copies. Returns how many they were."""
    cdef uint32_t i, left = 0, frames = 0
    for i in range(lane.n_exits):
        if lane.exits[i].egress == mirror.port:
            frames += lane.exits[i].delivery.n
        else:
            lane.exits[left] = lane.exits[i]
            left += 1
    lane.n_exits = left
    return frames


cdef uint32_t copy_to(Lane *lane, const Member *mirror, Exit exit) noexcept nogil:
    """Add an exit with the same frames. Returns how many there are."""
    if mirror.port == NULL:
        return 0
    exit.egress, exit.may_wait, exit.in_place, exit.spare, exit.queued = mirror.port, False, False, True, False
    lane.exits[lane.n_exits] = exit
    lane.n_exits += 1
    return exit.delivery.n
