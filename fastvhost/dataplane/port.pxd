"""What every kind of port gives the forwarder: three burst functions, counters, and an epoch.

receive_burst   fills a burst with frames that arrived; they stay valid until they are released or the epoch changes
                No more than BURST. What follows gets as many as that at the most: forward_burst sees to it
deliver_burst   copies frames out; returns how many are dealt with (delivered, or dropped and counted): the rest waits,
                for room, or, where tx.spent was counted up, only for the next visit
release_burst   hands chains of received frames back to whoever sent them, in the order in which they came
is_open         whether frames can arrive before control has come by again; a pair that is not open costs nothing
may_receive     a cheap look whether receive_burst would find something; a kind without one says yes

and, for a worker that wants to sleep, what would wake it:
wait_fd         readable when frames arrive from now on; NOTHING_TO_WAIT_FOR, or LOOK_AGAIN where nothing would tell.
                *kicked becomes True where it was readable, too late for a sleep that had ended by itself
want_kicks      ask for that, or say that it is not needed
has_work        whether receive_burst may find something
"""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.door cimport Door, PortDoor
from fastvhost.dataplane.frame cimport FrameBurst, Done, Frame, Segment
from fastvhost.dataplane.tally cimport Tally


cdef enum:
    NOTHING_TO_WAIT_FOR = -2
    LOOK_AGAIN = -1


cdef struct PortOps:
    uint32_t (*receive_burst)(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil
    uint32_t (*deliver_burst)(
        PortOps *port, uint32_t pair, const Frame *frames, const Segment *segments, uint32_t n
    ) noexcept nogil
    void (*release_burst)(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil
    bint (*is_open)(PortOps *port, uint32_t pair) noexcept nogil
    bint (*may_receive)(PortOps *port, uint32_t pair) noexcept nogil
    int (*wait_fd)(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil
    void (*want_kicks)(PortOps *port, uint32_t pair, bint wanted) noexcept nogil
    bint (*has_work)(PortOps *port, uint32_t pair) noexcept nogil
    void *state             # the kind's own struct
    Tally *rx                # one a pair: from the VM
    Tally *tx                # one a pair: towards the VM
    uint32_t n_pairs
    # set through the door
    uint32_t epoch           # moves on when frames received earlier must not be touched any more
    uint32_t active_pairs    # pairs that take frames: a burst for pair p goes to p % active_pairs; 0 counts as 1


cdef class Port:
    cdef readonly str name
    cdef bint polled             # it is a wire's ingress
    cdef dict delivering         # by share: the worker that delivers to it, see wire.claim
    cdef uint32_t shares         # of each wire that leads here
    cdef PortOps ops
    cdef Door door               # None: nothing of it ever changes
    cdef PortDoor entrance       # its own control thread's
    cdef int use_door(self, Door door) except -1
    cdef int allot(self, uint32_t n_pairs) except -1
