"""Which lanes a worker visits in a round: ports share its time equally, lanes without traffic cost next to nothing.

**Ports share by time.** A guest decides how much work a frame is: one piece or a thousand, 64 bytes or 64 KiB. So ports
get equal shares of time, not of frames or visits. Each sending port has an account: the time that its lanes' visits
took. A port whose account is more than LEAD ahead of the least account among the ports with traffic is not visited
until the others have caught up. In a port's turn its lanes take turns, so a port with 128 lanes gets no more than one
with one.

Time cannot be saved up: a port that had nothing to send, or waited for room at its egress, goes on from LEAD below the
least account of the others. Where only one port has traffic, the least account is its own, and it is visited all the
time; a round still ends after LEAD, so that the others are looked at. A visit is charged 100 us at most, because a
longer one was most likely interrupted by another program on this core; a visit of a single frame, which may be in 65535
pieces, eight times as much.

**Quiet lanes.** A device may have 128 queue pairs and traffic on one. A round that looked at all of them would spend
as much on 127 empty rings as on a burst of frames. So a lane that had nothing for QUIET_AFTER visits becomes quiet, a
round visits one in QUIET_SHARE of those, and the first frame makes it busy again. Where no lane is busy it visits all.
Where there are many of them, those that stay quiet leave the rounds (parking).
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.forward.lane cimport Lane


cdef enum:
    QUIET_AFTER = 64
    QUIET_SHARE = 32
    LEAD_US = 25               # a few visits within their budget; 5 made bursts of packed rings smaller
    MOST_US = 100
    LONE_FRAME_SHIFT = 3
    NOT_THERE = 0xFFFFFFFF     # no number of a sender


# A port that sends, as one worker has it.
cdef struct Sender:
    uint64_t used              # its account, in ticks
    uint64_t spent             # in visits that moved frames, in ticks
    Lane **busy                # its lanes with traffic
    uint32_t n_busy
    uint32_t next              # busy[next] is visited next


cdef struct Roster:
    Lane **lanes               # all of them: n_awake that are in the rounds, and then the parked ones
    Lane **busy                # room for the busy ones of all senders
    Lane **quiet               # a ring; the one visited longest ago is at quiet[first]
    Sender *senders
    Lane **dozing              # parked ones that are looked at every millisecond
    uint32_t *active           # the numbers of the senders that have busy lanes
    uint32_t room              # for lanes
    uint32_t n_lanes
    uint32_t n_awake
    uint32_t n_quiet
    uint32_t first
    uint32_t n_senders
    uint32_t n_active
    # parked lanes (parking)
    uint32_t n_dozing
    uint32_t looked            # lanes[looked] is looked at next
    int epoll_fd               # reports their kicks; -1: none are parked
    uint64_t recall_at         # ticks
    uint64_t looked_at
    # accounts, in ticks
    uint64_t least             # of those with traffic in the last round
    uint64_t now               # when the visit before ended
    uint64_t worked            # in rounds in which frames moved
    Lane *at                   # whose memory may be touched since then, for who looks on (hold_watch); NULL: nobody's
    uint64_t lead
    uint64_t most              # that one visit is charged
    uint64_t (*read_ticks)() noexcept nogil


cdef void set_clock(Roster *roster) noexcept
cdef int make_room(Roster *roster, uint32_t more) except -1
cdef int make_places(Roster *roster, uint32_t lanes, uint32_t senders) except -1
cdef void exchange(Roster *roster, Roster *other, const uint32_t *before) noexcept nogil
cdef void discard(Roster *roster) noexcept
cdef void clear(Roster *roster) noexcept nogil
cdef void enlist(Roster *roster, uint32_t sender, Lane *lane) noexcept nogil
cdef void start_afresh(Roster *roster) noexcept nogil
cdef void join(Roster *roster, Lane *lane) noexcept nogil
cdef void line_up(Roster *roster, Lane *lane) noexcept nogil
cdef Lane *call_up(Roster *roster) noexcept nogil
cdef void exchange_places(Roster *roster, uint32_t one, uint32_t other) noexcept nogil


cdef inline void look_at(Roster *roster, Lane *lane) noexcept nogil:
    """The same for a lane that is looked at between rounds; NULL when that is over."""
    roster.now = roster.read_ticks()
    roster.at = lane
