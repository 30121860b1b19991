"""`--forward learn`: an Ethernet switch."""

from fastvhost.dataplane.forward.lane cimport Lane


cdef void plan_learn(Lane *lane) noexcept nogil
