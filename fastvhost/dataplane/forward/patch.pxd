"""`--forward patch`: what comes in at one end of a wire leaves at the other."""

from fastvhost.dataplane.forward.lane cimport Lane


cdef void plan_patch(Lane *lane) noexcept nogil
