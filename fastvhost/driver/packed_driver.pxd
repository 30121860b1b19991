"""The driver side of one packed virtqueue. Virtio 1.2, section 2.8. The contract is queue.pxd's."""

from libc.stdint cimport uint32_t

from fastvhost.driver.queue cimport QueueFormat


# What SET_VRING_BASE says of a new ring: both indices 0, both wrap counters 1.
cdef enum:
    PACKED_START = 0x80008000


cdef void packed_format(QueueFormat *format, bint in_order) noexcept nogil
