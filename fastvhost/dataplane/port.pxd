"""What every kind of port gives the forwarder: a struct of functions (PortOps), counters, and an epoch.

Workers call these functions, without the GIL. Of one queue pair, one worker receives, releases and asks what follows,
and one, perhaps another, delivers; where the port is `shared`, whoever has the pair's lock does. None of these
functions waits, whatever happens at the port's other end.

receive_burst   Puts frames that arrived into `frames` of a burst from 0 on, and what release_burst is to know of each
                into `done`; sets n_frames, which is 0 before, and returns it: BURST at most. Counts frames and bytes
                in rx. What it drops by itself it counts as dropped only. Called only when all frames of the pair that
                it handed out before are released, or invalid because the epoch moved on. Until then they stay as they
                are, wherever they lie
deliver_burst   Copies the frames of a delivery out, in their order, and leaves them as they are. Returns how many it
                has dealt with, each either counted in tx (frames, bytes) or as dropped. The rest is delivered again:
                once there is room, or, where tx.spent was counted up, at the next visit. To get 0 frames is no error
release_burst   Takes frames back in the order in which they were received, all of a burst or the first of them. Never
                called for none, nor for frames of an epoch before
is_open         Whether frames can arrive before the next change of the port; a pair that is not open costs nothing
may_receive     Whether receive_burst may find something, or has something to give back; cheaper than trying. It takes
                no frame, but calls the kernel where that waits for a call (xdp). A kind that cannot tell returns True;
                where trying is a system call, every 50 us at most, once its pair has had no frame for long (tap, pcap)

And for a worker that wants to sleep, what would wake it, asked in this order:

wait_fd         A descriptor that is readable when frames arrive from now on; NOTHING_TO_WAIT_FOR; or LOOK_AGAIN: frames
                may arrive, and no descriptor tells. Sets *kicked where it was readable already: a kick that came after
                its frame was found is no missed one (idle)
want_kicks      Ask for that, or say that it is not needed
has_silent_work Whether there is something to do for which wait_fd does not become readable: frames that came before
                want_kicks, or what the kernel has still to send. Where it says yes after a sleep that ended by its
                timeout, that counts as a missed kick (idle): after some of them, the worker naps until a kick comes

And for lanes that leave the rounds (parking), where a kind has that at all:

report_kicks    Have an epoll report its kicks from now on, as events whose data is `lane`. What it returns and *kicked
                are those of wait_fd; LOOK_AGAIN, too, where the epoll takes no more. A change of the port that ends
                what is reported counts `changes` up
report_none     The same no more. Nothing where none are reported

What a frame needs (frame.pxd, heads) is what its ingress says, and what its egress gets as it is where it accepts that:
super-frames of other needs come in pieces (offload/cut), checksums the egress fills in (offload/finish, receiveq).
receive_burst sets n_heads and needs, unless its frames never need anything.

tests/unit/test_port_contract.py holds every kind to this.
"""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.delivery_lock cimport DeliveryLock
from fastvhost.dataplane.door cimport Door, PortDoor
from fastvhost.dataplane.frame cimport Delivery, FrameBurst, Done
from fastvhost.dataplane.tally cimport Tally


cdef enum:
    NOTHING_TO_WAIT_FOR = -2
    LOOK_AGAIN = -1


cdef struct PortOps:
    uint32_t (*receive_burst)(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil
    uint32_t (*deliver_burst)(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil
    void (*release_burst)(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil
    bint (*is_open)(PortOps *port, uint32_t pair) noexcept nogil
    bint (*may_receive)(PortOps *port, uint32_t pair) noexcept nogil
    int (*wait_fd)(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil
    void (*want_kicks)(PortOps *port, uint32_t pair, bint wanted) noexcept nogil
    bint (*has_silent_work)(PortOps *port, uint32_t pair) noexcept nogil
    void *state             # the kind's own struct
    Tally *rx                # one a pair: from the VM
    Tally *tx                # one a pair: towards the VM
    uint32_t n_pairs
    DeliveryLock *locks      # one a pair: to deliver to it, where the port is shared
    # set through the door
    uint32_t *stops          # one a pair: how often what takes its frames stopped, or began
    uint32_t epoch           # incremented when frames received earlier must not be touched any more
    uint32_t lives           # incremented when those will not come again, because of another guest or ring
    uint32_t accepts         # what frames may need that are delivered to it (Need)
    bint takes_starts        # of deliveries; for others, the forwarder makes frames in pieces of them
    bint shared              # several workers may deliver to the same pair
    uint32_t active_pairs    # pairs that take frames: a burst for pair p goes to p % active_pairs; 0 counts as 1
    uint32_t changes         # incremented when reports of kicks have ended
    int (*report_kicks)(PortOps *port, uint32_t pair, int epoll_fd, void *lane, bint *kicked) noexcept nogil
    void (*report_none)(PortOps *port, uint32_t pair) noexcept nogil


cdef class Port:
    cdef readonly str name
    cdef bint polled             # it is a wire's ingress
    cdef dict delivering         # by share: the worker that delivers to it, see wire.claim
    cdef uint32_t shares         # of each wire that leads here
    cdef PortOps ops
    cdef Door door               # None: a port that never changes
    cdef PortDoor entrance       # how its own control thread uses the door
    cdef int use_door(self, Door door) except -1
    cdef int allot(self, uint32_t n_pairs) except -1
    cdef int share(self) except -1
