"""The step in which workers get other lanes, or their lanes lead elsewhere. See lane_change.pxd."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.drop_reason cimport NO_EGRESS, VLAN_DENIED
from fastvhost.dataplane.eventfd cimport pollfd
from fastvhost.dataplane.forward.backlog cimport give_up
from fastvhost.dataplane.forward.backlog_move cimport may_go_along, take_along
from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.parking cimport end_report
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.roster cimport exchange
from fastvhost.dataplane.tally cimport count_drops
from fastvhost.dataplane.worker cimport Part


cdef void put_into_effect(void *what) noexcept nogil:
    cdef Change *change = <Change *>what
    cdef Layout *layout
    cdef Part *parts
    cdef pollfd *fds
    cdef uint32_t i, k, n
    change.refused = not may_go_along(change.moved, change.n_moved)
    if change.refused:
        return
    for i in range(change.n_moved):
        take_along(&change.moved[i])
    for i in range(change.n_layouts):
        layout = &change.layouts[i]
        exchange(layout.roster_of, &layout.roster, layout.before)
        parts, n, fds = layout.parts_of[0], layout.n_parts_of[0], layout.fds_of[0]
        layout.parts_of[0], layout.n_parts_of[0], layout.fds_of[0] = layout.parts, layout.n_parts, layout.fds
        layout.parts, layout.n_parts, layout.fds = parts, n, fds
    for i in range(change.n_parted):
        for k in range(change.parted[i].n_lanes):
            end_report(&change.parted[i].lanes[k])
    for i in range(change.n_turns):
        for k in range(change.turns[i].n_lanes):
            lead_elsewhere(&change.turns[i].lanes[k], change.turns[i].egress)
    for i in range(change.n_seats):
        take_seat(&change.seats[i])
        if change.seats[i].before == NULL:
            continue
        for k in range(change.n_swept):
            for n in range(change.swept[k].n_lanes):
                drop_exits(&change.swept[k].lanes[n], &change.seats[i])
        give_up(change.backlogs, change.seats[i].before, NO_EGRESS)


cdef void take_seat(const Seat *seat) noexcept nogil:
    seat.members.at[seat.number].port = seat.port
    seat.members.n = max(seat.members.n, seat.number + 1)
    seat.members.tagging |= seat.tagging


cdef void vacate_seat(void *what) noexcept nogil:
    take_seat(<const Seat *>what)


cdef void drop_exits(Lane *lane, const Seat *seat) noexcept nogil:
    """Frames of a visit under way that are for who leaves are dropped. The visit goes on: they are to be released."""
    cdef Exit *exit
    cdef uint32_t i
    for i in range(lane.exit, lane.n_exits):
        exit = &lane.exits[i]
        if exit.egress == seat.before:
            count_drops(&lane.ingress.rx[lane.pair], NO_EGRESS, exit.delivery.n)
            exit.egress, exit.delivery.n, exit.delivery.needs = seat.port, 0, 0
            if i == lane.exit:
                lane.super.begun = lane.super.forgotten = False


cdef void lead_elsewhere(Lane *lane, PortOps *egress) noexcept nogil:
    """Frames that wait in the lane are planned again. One that was delivered in part is delivered whole there."""
    lane.egress = egress
    lane.exit = lane.n_exits = 0
    lane.super.begun = lane.super.forgotten = False
    lane.stalled_since = 0


cdef void regroup(void *what) noexcept nogil:
    cdef const Regrouping *change = <const Regrouping *>what
    cdef uint32_t i
    for i in range(change.n):
        change.members.at[change.numbers[i]].vlans = change.vlans[i]
        give_up(change.backlogs, change.members.at[change.numbers[i]].port, VLAN_DENIED)
    change.members.tagging = True


cdef void do_nothing(void *what) noexcept nogil:
    pass
