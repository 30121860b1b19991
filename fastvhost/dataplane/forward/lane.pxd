"""One ingress queue pair on its way out, and the plan of the visit under way."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastvhost.dataplane.forward.exit cimport Exit
from fastvhost.dataplane.forward.learner cimport Learner
from fastvhost.dataplane.frame cimport Delivery, FrameBurst
from fastvhost.dataplane.forward.limit cimport Limit
from fastvhost.dataplane.forward.waiting cimport Backlogs
from fastvhost.dataplane.offload.cut cimport Cutter, Super
from fastvhost.dataplane.port cimport PortOps


# Everything in it belongs to the worker that has it on its roster.
cdef struct Lane:
    PortOps *ingress
    PortOps *egress          # of a wire; NULL: nobody
    uint32_t pair            # of the ingress
    Limit *limit             # of its port; NULL: none
    uint32_t sender          # its port's number on the roster
    const Exit *at           # what is being delivered, for who looks on (hold_watch); NULL: nothing
    const Delivery *delivering   # the same as it is handed to the egress
    bint hold                # leave frames with the ingress while the egress has no room; `learn`: in a backlog
    uint64_t hold_ns         # for this long without progress; `learn`: for this long
    # the burst on its way: frames first..n_frames wait for room, or for another visit
    uint32_t first
    uint32_t due             # frames first..due are this visit's
    int32_t gained           # bytes that each of those became longer where it stands, by a tag
    uint32_t epoch           # the ingress's, when the burst was received
    uint64_t stalled_since   # monotonic ns, 0 while the egress takes frames
    uint64_t progress        # frames that the egress's queue had taken by then
    uint32_t empty_rounds    # visits in a row that moved no frame (roster)
    uint32_t missed_kicks    # times in a row that frames came without the kick that was asked for (idle)
    FrameBurst burst
    # where the visit's frames go: exits[exit] and those behind it still have some
    void (*plan)(Lane *lane) noexcept nogil
    uint32_t exit
    uint32_t n_exits
    Exit *exits
    Exit lone                # room for one of them
    Learner *learner         # `learn` alone
    Super super              # the frame at the front of an exit, where a part of it is delivered
    Cutter *cutter           # its worker's
    Backlogs *backlogs       # its worker's
    # quiet ones (roster, parking)
    uint64_t quiet_since     # ticks
    uint32_t place           # on the roster
    uint32_t dozes_at        # among those that doze
    bint dozes               # while it is parked
    uint32_t changes         # the ingress's, when it was parked
    void *parked_by          # that worker's roster; NULL: it is in the rounds
