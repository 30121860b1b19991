"""What the device writes into a packed virtqueue: used descriptors, and whether to notify. Virtio 1.2, section 2.8."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.frame cimport Done
from fastvhost.dataplane.ring cimport Ring


cdef void complete(Ring *ring, const Done *done, uint32_t n) noexcept nogil
cdef bint publish(Ring *ring) noexcept nogil
