"""Which lanes a worker visits in a round: those with traffic each time, the quiet ones in turn. See roster.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc

from fastvhost.dataplane.forward cimport Lane, forward_burst


cdef int make_room(Roster *roster, uint32_t more) except -1:
    """For so many more lanes. The roster is empty afterwards."""
    cdef size_t bytes = (roster.room + more) * sizeof(Lane *)
    roster.n_busy = roster.n_quiet = roster.first = 0
    grown = <Lane **>realloc(roster.busy, bytes)
    if grown == NULL:
        raise MemoryError
    roster.busy = grown
    grown = <Lane **>realloc(roster.quiet, bytes)
    if grown == NULL:
        raise MemoryError
    roster.quiet = grown
    roster.room += more
    return 0


cdef void discard(Roster *roster) noexcept:
    free(roster.busy)
    free(roster.quiet)


cdef void line_up(Roster *roster, Lane *lane) noexcept nogil:
    """Behind all quiet lanes."""
    cdef uint32_t at = roster.first + roster.n_quiet
    roster.quiet[at if at < roster.room else at - roster.room] = lane
    roster.n_quiet += 1


cdef Lane *call_up(Roster *roster) noexcept nogil:
    """The quiet lane that waited longest."""
    cdef Lane *lane = roster.quiet[roster.first]
    roster.first = roster.first + 1 if roster.first + 1 < roster.room else 0
    roster.n_quiet -= 1
    return lane


cdef uint32_t visit(Roster *roster) noexcept nogil:
    """One round: a burst for each lane whose turn it is. Returns the frames moved."""
    cdef uint32_t moved = 0, now, i = 0, _turn, turns = roster.n_quiet
    cdef Lane *lane
    if roster.n_busy:
        turns = min(turns, 1 + turns // QUIET_SHARE)
    while i < roster.n_busy:
        lane = roster.busy[i]
        now = forward_burst(lane)
        moved += now
        lane.empty_rounds = 0 if now else lane.empty_rounds + 1
        if lane.empty_rounds < QUIET_AFTER:
            i += 1
        else:
            roster.n_busy -= 1
            roster.busy[i] = roster.busy[roster.n_busy]
            line_up(roster, lane)
    for _turn in range(turns):
        lane = call_up(roster)
        now = forward_burst(lane) if may_move(lane) else 0
        moved += now
        if now:
            lane.empty_rounds = 0
            roster.busy[roster.n_busy] = lane
            roster.n_busy += 1
        else:
            line_up(roster, lane)
    return moved


cdef inline bint may_move(Lane *lane) noexcept nogil:
    """Whether there is anything to do; a look at a few cache lines less than trying takes."""
    return lane.first < lane.burst.n_frames or lane.ingress.may_receive(lane.ingress, lane.pair)
