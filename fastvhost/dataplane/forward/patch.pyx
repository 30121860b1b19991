"""`--forward patch`: what comes in at one end of a wire leaves at the other."""

from fastvhost.dataplane.drop_reason cimport NO_EGRESS
from fastvhost.dataplane.forward.lane cimport Exit, Lane
from fastvhost.dataplane.frame cimport delivery_of
from fastvhost.dataplane.tally cimport count_drops


cdef void plan_patch(Lane *lane) noexcept nogil:
    """One exit for all, or none."""
    if lane.egress == NULL:
        count_drops(&lane.ingress.rx[lane.pair], NO_EGRESS, lane.due - lane.first)
        lane.n_exits = 0
        return
    lane.exits[0] = Exit(
        lane.egress, delivery_of(&lane.burst, lane.first, lane.due - lane.first), lane.hold, True, False, False
    )
    lane.n_exits = 1
