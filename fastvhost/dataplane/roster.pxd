"""Which lanes a worker visits in a round: those with traffic each time, the quiet ones in turn.

A device may have 128 queue pairs and traffic on one. A round that looked at all of them would spend as much on 127
empty rings as on a burst of frames. So a lane that had nothing for QUIET_AFTER rounds becomes quiet, a round visits one
in QUIET_SHARE of those, and the first frame makes it busy again. Where no lane is busy a round visits all.
"""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward cimport Lane


cdef enum:
    QUIET_AFTER = 64
    QUIET_SHARE = 32


cdef struct Roster:
    Lane **busy
    Lane **quiet       # a ring; the one visited longest ago is at quiet[first]
    uint32_t room      # for lanes in each
    uint32_t n_busy
    uint32_t n_quiet
    uint32_t first


cdef inline uint32_t n_lanes(const Roster *roster) noexcept nogil:
    return roster.n_busy + roster.n_quiet


cdef inline Lane *lane_at(const Roster *roster, uint32_t i) noexcept nogil:
    """Any of its lanes, by a number below n_lanes; which one changes from round to round."""
    if i < roster.n_busy:
        return roster.busy[i]
    return roster.quiet[(roster.first + i - roster.n_busy) % roster.room]


cdef int make_room(Roster *roster, uint32_t more) except -1
cdef void discard(Roster *roster) noexcept
cdef uint32_t visit(Roster *roster) noexcept nogil
