"""The lanes that a worker visits, busy ones and quiet ones, and the accounts of their ports. See roster.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastvhost.dataplane.clock cimport monotonic_ns, read_ticks
from fastvhost.dataplane.debug cimport DEBUG, check
from fastvhost.dataplane.forward.lane cimport Lane

cdef enum:
    CALIBRATION_NS = 1000 * 1000

# Two clocks read together, for their ratio; it need not be exact.
cdef uint64_t first_ticks = read_ticks(), first_ns = monotonic_ns()


cdef uint64_t ticks_in(uint64_t microseconds) noexcept:
    while monotonic_ns() - first_ns < CALIBRATION_NS:
        pass
    return <uint64_t>(<double>(read_ticks() - first_ticks) / <double>(monotonic_ns() - first_ns) * 1000 * microseconds)


cdef void *resized(void *old, size_t n, size_t bytes) except NULL:
    cdef void *new = realloc(old, n * bytes)
    if new == NULL:
        raise MemoryError
    return new


cdef void set_clock(Roster *roster) noexcept:
    """Set up the clock (ticks a microsecond) and the bounds of time in ticks."""
    roster.lead, roster.most = ticks_in(LEAD_US), ticks_in(MOST_US)
    roster.read_ticks = read_ticks


cdef int make_room(Roster *roster, uint32_t more) except -1:
    """Make room for one more sender, with its lanes. The roster is empty afterwards."""
    cdef uint32_t lanes = roster.room + more, senders = roster.n_senders + 1
    clear(roster)
    roster.lanes = <Lane **>resized(roster.lanes, lanes, sizeof(Lane *))
    roster.busy = <Lane **>resized(roster.busy, lanes, sizeof(Lane *))
    roster.quiet = <Lane **>resized(roster.quiet, lanes, sizeof(Lane *))
    roster.dozing = <Lane **>resized(roster.dozing, lanes, sizeof(Lane *))
    roster.active = <uint32_t *>resized(roster.active, senders, sizeof(uint32_t))
    roster.senders = <Sender *>resized(roster.senders, senders, sizeof(Sender))
    memset(roster.senders, 0, senders * sizeof(Sender))
    roster.room, roster.n_senders = lanes, senders
    return 0


cdef int make_places(Roster *roster, uint32_t lanes, uint32_t senders) except -1:
    """Make the arrays of a roster that has none, for exchange()."""
    roster.room = roster.n_senders = 0
    roster.lanes = <Lane **>resized(NULL, lanes + 1, sizeof(Lane *))
    roster.busy = <Lane **>resized(NULL, lanes + 1, sizeof(Lane *))
    roster.quiet = <Lane **>resized(NULL, lanes + 1, sizeof(Lane *))
    roster.dozing = <Lane **>resized(NULL, lanes + 1, sizeof(Lane *))
    roster.active = <uint32_t *>resized(NULL, senders + 1, sizeof(uint32_t))
    roster.senders = <Sender *>resized(NULL, senders + 1, sizeof(Sender))
    memset(roster.senders, 0, (senders + 1) * sizeof(Sender))
    roster.room, roster.n_senders = lanes, senders
    return 0


cdef void exchange(Roster *roster, Roster *other, const uint32_t *before) noexcept nogil:
    """Exchange the arrays of a roster that is in use. It is empty then; its accounts and its clock go on.

    before: the number that each sender had; NOT_THERE where it is new.
    """
    cdef Roster old = roster[0]
    cdef uint32_t i
    for i in range(other.n_senders):
        if before[i] == NOT_THERE:
            other.senders[i].used, other.senders[i].spent = old.least, 0
        else:
            other.senders[i].used, other.senders[i].spent = old.senders[before[i]].used, old.senders[before[i]].spent
    roster.lanes, roster.busy, roster.quiet = other.lanes, other.busy, other.quiet
    roster.dozing, roster.active, roster.senders = other.dozing, other.active, other.senders
    roster.room, roster.n_senders = other.room, other.n_senders
    other.lanes, other.busy, other.quiet = old.lanes, old.busy, old.quiet
    other.dozing, other.active, other.senders = old.dozing, old.active, old.senders
    other.room, other.n_senders = old.room, old.n_senders
    clear(roster)


cdef void discard(Roster *roster) noexcept:
    free(roster.lanes)
    free(roster.busy)
    free(roster.quiet)
    free(roster.dozing)
    free(roster.active)
    free(roster.senders)


cdef void clear(Roster *roster) noexcept nogil:
    """Remove all lanes; accounts stay."""
    cdef uint32_t i
    roster.n_lanes = roster.n_awake = roster.n_dozing = roster.n_quiet = roster.first = roster.n_active = 0
    for i in range(roster.n_senders):
        roster.senders[i].busy = NULL
        roster.senders[i].n_busy = roster.senders[i].next = 0


cdef void enlist(Roster *roster, uint32_t sender, Lane *lane) noexcept nogil:
    """Add a lane. To be called sender after sender, for all lanes of each. One that was quiet or parked stays so."""
    if roster.senders[sender].busy == NULL:
        roster.senders[sender].busy = &roster.busy[roster.n_lanes]
    lane.sender = sender
    lane.place = roster.n_lanes
    roster.lanes[roster.n_lanes] = lane
    roster.n_lanes += 1
    if lane.parked_by != NULL:
        if lane.dozes:
            lane.dozes_at = roster.n_dozing
            roster.dozing[roster.n_dozing] = lane
            roster.n_dozing += 1
        return
    exchange_places(roster, lane.place, roster.n_awake)
    roster.n_awake += 1
    if lane.empty_rounds < QUIET_AFTER:
        join(roster, lane)
    else:
        line_up(roster, lane)


cdef void exchange_places(Roster *roster, uint32_t one, uint32_t other) noexcept nogil:
    """Of two lanes on the roster."""
    cdef Lane *lane = roster.lanes[one]
    roster.lanes[one], roster.lanes[other] = roster.lanes[other], lane
    roster.lanes[one].place, lane.place = one, other


cdef void start_afresh(Roster *roster) noexcept nogil:
    """Make all lanes busy, and all accounts equal."""
    cdef uint32_t i
    for i in range(roster.n_lanes):
        roster.lanes[i].empty_rounds = 0
    for i in range(roster.n_senders):
        roster.senders[i].used = 0
    roster.least = 0
    while roster.n_quiet:
        join(roster, call_up(roster))


cdef void join(Roster *roster, Lane *lane) noexcept nogil:
    """A lane has traffic."""
    cdef Sender *sender = &roster.senders[lane.sender]
    if sender.n_busy == 0:
        roster.active[roster.n_active] = lane.sender
        roster.n_active += 1
    sender.busy[sender.n_busy] = lane
    sender.n_busy += 1
    if DEBUG:
        check(roster.n_active <= roster.n_senders, "roster: no more senders have traffic than there are")
        check(sender.busy + sender.n_busy <= roster.busy + roster.n_lanes, "roster: a busy lane has a place")


cdef void line_up(Roster *roster, Lane *lane) noexcept nogil:
    """Append a lane to the quiet ones."""
    if DEBUG:
        check(roster.n_quiet < roster.room, "roster: a lane that becomes quiet has a place")
    cdef uint32_t at = roster.first + roster.n_quiet
    roster.quiet[at if at < roster.room else at - roster.room] = lane
    roster.n_quiet += 1


cdef Lane *call_up(Roster *roster) noexcept nogil:
    """Remove and return the quiet lane that has waited longest."""
    cdef Lane *lane = roster.quiet[roster.first]
    if DEBUG:
        check(roster.n_quiet > 0, "roster: a quiet lane is there to be called up")
    roster.first = roster.first + 1 if roster.first + 1 < roster.room else 0
    roster.n_quiet -= 1
    return lane
