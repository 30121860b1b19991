"""Which lanes workers are to have, and where these are to lead: unseen by workers until it is put into effect.

A Rewiring prepares it. The last worker that comes to the door puts it into effect, while all others stand there: arrays
that were made before are exchanged.
"""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.eventfd cimport pollfd
from fastvhost.dataplane.forward.backlog cimport AllBacklogs
from fastvhost.dataplane.forward.backlog_move cimport MovedLanes
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.members cimport Members
from fastvhost.dataplane.forward.vlan cimport PortVlans
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.roster cimport Roster
from fastvhost.dataplane.worker cimport Part


# What a worker visits from now on; after the change, what it visited before.
cdef struct Layout:
    Part **parts_of            # the worker's
    uint32_t *n_parts_of
    Roster *roster_of
    pollfd **fds_of
    Part *parts
    uint32_t n_parts
    Roster roster
    pollfd *fds
    uint32_t *before           # by part: the number that it had


# The lanes of a wire, which lead elsewhere from now on.
cdef struct Turn:
    Lane *lanes
    uint32_t n_lanes
    PortOps *egress


# Who has a number of an Ethernet switch from now on.
cdef struct Seat:
    Members *members
    uint32_t number
    PortOps *port              # NULL: nobody
    PortOps *before            # who had it and leaves; NULL: nobody
    bint tagging               # some port has VLANs


cdef struct Change:
    Layout *layouts
    uint32_t n_layouts
    Turn *turns
    uint32_t n_turns
    Seat *seats
    uint32_t n_seats
    Turn *swept                # lanes that may have frames on their way to who leaves
    uint32_t n_swept
    AllBacklogs *backlogs
    Turn *parted               # lanes that no worker has any more
    uint32_t n_parted
    MovedLanes *moved          # lanes that get another worker, with what of theirs waits in backlogs
    uint32_t n_moved
    bint refused               # there was no room for that


# The VLANs of some ports of a switch from now on.
cdef struct Regrouping:
    Members *members
    uint32_t n
    uint32_t *numbers
    PortVlans *vlans
    const AllBacklogs *backlogs


# Each is applied at the door, with what it says as `what`.
cdef void put_into_effect(void *what) noexcept nogil  # Change
cdef void vacate_seat(void *what) noexcept nogil           # Seat
cdef void regroup(void *what) noexcept nogil          # Regrouping
cdef void do_nothing(void *what) noexcept nogil
