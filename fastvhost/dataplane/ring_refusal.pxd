"""What a ring must be like to start."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.virtio_change cimport Placement


cdef int need_placed(uint32_t index, Placement placement, bint packed) except -1
