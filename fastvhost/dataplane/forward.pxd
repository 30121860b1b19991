"""One burst from an ingress to its egress. The whole of `--forward patch`."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.frame cimport FrameBurst
from fastvhost.dataplane.offload.cut cimport Cutter, Super
from fastvhost.dataplane.port cimport PortOps


# One ingress queue pair on its way to one egress. Everything in it belongs to the worker that has it on its roster.
cdef struct Lane:
    PortOps *ingress
    PortOps *egress         # NULL: nobody
    uint32_t pair            # of the ingress
    uint32_t sender          # its port's number on the roster
    bint delivers            # in deliver_burst, for who looks on (hold_watch)
    bint hold                # leave frames with the ingress while the egress has no room
    uint64_t hold_ns         # for this long without progress
    # the burst on its way: frames first..n_frames wait for room, or for another visit
    uint32_t first
    uint32_t due             # frames first..due are this visit's
    uint32_t epoch           # the ingress's, when the burst was received
    uint64_t stalled_since   # monotonic ns, 0 while the egress takes frames
    uint64_t progress        # frames that the egress's queue had taken by then
    uint32_t empty_rounds    # visits in a row that moved no frame (roster)
    uint32_t missed_kicks    # times in a row that frames came without the kick that was asked for (idle)
    FrameBurst burst
    Super super              # the frame at `first`, where a part of it is delivered
    Cutter *cutter           # its worker's


cdef uint32_t forward_burst(Lane *lane) noexcept nogil
