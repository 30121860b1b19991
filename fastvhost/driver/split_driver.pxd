"""The driver side of one split virtqueue. Virtio 1.2, section 2.7. The contract is queue.pxd's."""

from fastvhost.driver.queue cimport QueueFormat


cdef void split_format(QueueFormat *format, bint in_order) noexcept nogil
