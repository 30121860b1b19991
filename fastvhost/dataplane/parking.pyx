"""Lanes that leave the rounds while they are quiet, and come back by their kick. See parking.pxd."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport full_fence
from fastvhost.dataplane.debug cimport DEBUG, check
from fastvhost.dataplane.eventfd cimport epoll_event, epoll_wait
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.port cimport LOOK_AGAIN
from fastvhost.dataplane.roster cimport Roster, exchange_places, join, look_at

cdef enum:
    MOST_AT_ONCE = 64


cdef void park(Roster *roster, Lane *lane) noexcept nogil:
    """Have a lane leave the rounds that was just called up and found quiet; or make it busy: frames came meanwhile."""
    cdef bint kicked = False
    cdef int fd = lane.ingress.report_kicks(lane.ingress, lane.pair, roster.epoll_fd, lane, &kicked)
    if kicked:
        lane.missed_kicks = 0
    lane.ingress.want_kicks(lane.ingress, lane.pair, True)
    lane.parked_by, lane.changes = roster, lane.ingress.changes
    lane.dozes = fd == LOOK_AGAIN or lane.missed_kicks >= MISSED_KICKS_LIMIT
    if lane.dozes:
        lane.dozes_at = roster.n_dozing
        roster.dozing[roster.n_dozing] = lane
        roster.n_dozing += 1
    roster.n_awake -= 1
    exchange_places(roster, lane.place, roster.n_awake)
    full_fence()  # kicks are asked for before the queue is looked at once more; pairs with the driver's fence
    if lane.ingress.has_silent_work(lane.ingress, lane.pair):
        come_back(roster, lane)


cdef void bring_back(Roster *roster) noexcept nogil:
    """Make parked lanes busy that were kicked, or have frames without a kick."""
    cdef epoll_event events[MOST_AT_ONCE]
    cdef Lane *lane
    cdef int i, n = epoll_wait(roster.epoll_fd, events, MOST_AT_ONCE, 0)
    for i in range(n):
        lane = <Lane *>events[i].data.ptr
        if is_parked_here(roster, lane):
            lane.missed_kicks = 0
            come_back(roster, lane)
    if roster.now - roster.looked_at >= ticks_of(roster, DOZE_US):
        look_around(roster)
    roster.at = NULL
    roster.recall_at = roster.now + ticks_of(roster, RECALL_US)


cdef inline bint is_parked_here(const Roster *roster, const Lane *lane) noexcept nogil:
    """A lane of a pair that another worker has now may still be reported here, until that one has let it in."""
    cdef uint32_t place = lane.place    # which that worker may just be writing
    return roster.n_awake <= place < roster.n_lanes and roster.lanes[place] == lane


cdef void look_around(Roster *roster) noexcept nogil:
    """Look at all lanes that doze, and at as many of the parked ones as the time since the last look is of ROUND_US."""
    cdef uint64_t passed = roster.now - roster.looked_at, parked = roster.n_lanes - roster.n_awake
    cdef uint64_t looks = min(parked, 1 + parked * passed // ticks_of(roster, ROUND_US))
    cdef uint32_t i = roster.n_dozing
    cdef Lane *lane
    roster.looked_at = roster.now
    while i:
        i -= 1
        has_come(roster, roster.dozing[i])
    while looks and roster.n_awake < roster.n_lanes:
        looks -= 1
        if not roster.n_awake <= roster.looked < roster.n_lanes:
            roster.looked = roster.n_awake
        lane = roster.lanes[roster.looked]
        roster.looked += 1
        if not lane.dozes and has_come(roster, lane):
            # Not after the first one it counts as a driver that never kicks: it may be between its frame and its kick.
            lane.missed_kicks += 1


cdef bint has_come(Roster *roster, Lane *lane) noexcept nogil:
    """Whether frames came. Then it is back."""
    look_at(roster, lane)
    if not lane.ingress.may_receive(lane.ingress, lane.pair):
        return False
    come_back(roster, lane)
    return True


cdef void come_back(Roster *roster, Lane *lane) noexcept nogil:
    """Make a parked lane a busy one."""
    cdef Lane *last
    if DEBUG:
        check(roster.n_awake < roster.n_lanes, "parking: a lane that comes back was away")
    if lane.dozes:
        roster.n_dozing -= 1
        last = roster.dozing[roster.n_dozing]
        roster.dozing[lane.dozes_at], last.dozes_at = last, lane.dozes_at
    exchange_places(roster, lane.place, roster.n_awake)
    roster.n_awake += 1
    let_in(roster, lane)
    join(roster, lane)


cdef void let_in(Roster *roster, Lane *lane) noexcept nogil:
    """A lane that was parked, here or by another worker, is to be visited again: its driver need not kick."""
    look_at(roster, lane)
    lane.ingress.report_none(lane.ingress, lane.pair)
    lane.ingress.want_kicks(lane.ingress, lane.pair, False)
    look_at(roster, NULL)
    lane.parked_by, lane.dozes, lane.empty_rounds = NULL, False, 0


cdef void let_all_in(Roster *roster) noexcept nogil:
    """Nobody waits for kicks any more."""
    while roster.n_awake < roster.n_lanes:
        come_back(roster, roster.lanes[roster.n_awake])
