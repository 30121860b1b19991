"""Lanes that leave the rounds while they are quiet, and come back by their kick.

Where a worker has many lanes without traffic, even a look now and then costs more than the traffic of the others: each
look touches memory that is in no cache. So a lane that had nothing for PARK_AFTER_US is parked: its driver is asked for
kicks, an epoll of the worker's reports them, and no round looks at it. The first QUIET_KEPT lanes without traffic stay
in the rounds, since they cost one look a round: where there are few ports, nothing is ever parked.

No kick is lost, by the same order of steps as before a sleep (idle.pxd): ask for kicks, full fence, look once more.

A lane whose driver cannot kick, or does not although it was asked to, dozes instead: it is looked at every
DOZE_US. That it does not is found by looking at parked lanes in turn, at each once in ROUND_US.

A parked lane is still its worker's. A change of its port ends the report (virtio_change) and brings it back.
"""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.roster cimport MOST_US, Roster


cdef enum:
    QUIET_KEPT = 8             # before a sleep each of them costs more than a system call
    PARK_AFTER_US = 100 * 1000
    RECALL_US = 50             # between two questions who was kicked: a system call each
    DOZE_US = 1000
    ROUND_US = 400 * 1000      # 1000 looks at memory that is in no cache: 0.2 % of a core
    MISSED_KICKS_LIMIT = 3     # then the driver counts as one that does not kick


cdef void park(Roster *roster, Lane *lane) noexcept nogil
cdef void bring_back(Roster *roster) noexcept nogil
cdef void let_in(Roster *roster, Lane *lane) noexcept nogil
cdef void let_all_in(Roster *roster) noexcept nogil


cdef inline uint64_t ticks_of(const Roster *roster, uint64_t microseconds) noexcept nogil:
    return microseconds * roster.most // MOST_US


cdef inline bint is_to_park(const Roster *roster, const Lane *lane) noexcept nogil:
    """Whether a lane that was just called up and found quiet leaves the rounds. Not while its frames wait for room."""
    return (
        roster.n_quiet >= <unsigned>QUIET_KEPT
        and roster.now - lane.quiet_since >= ticks_of(roster, PARK_AFTER_US)
        and lane.first == lane.burst.n_frames
        and lane.ingress.report_kicks != NULL and roster.epoll_fd >= 0
    )


cdef inline void end_report(Lane *lane) noexcept nogil:
    """No worker is told of a lane's kicks any more."""
    if lane.parked_by != NULL:
        lane.ingress.report_none(lane.ingress, lane.pair)
        lane.parked_by = NULL


cdef inline bint stays_parked(const Roster *roster, const Lane *lane) noexcept nogil:
    """Whether a parked lane is the same worker's as before, and its port unchanged."""
    return lane.parked_by == <const void *>roster and lane.changes == lane.ingress.changes
