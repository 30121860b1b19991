"""Tags of frames: which VLAN a frame is in, and how it leaves. IEEE 802.1Q."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.lane cimport Lane


cdef void classify(Lane *lane, uint32_t n) noexcept nogil
cdef void plan_tagged(Lane *lane, uint32_t n, bint one_way) noexcept nogil
