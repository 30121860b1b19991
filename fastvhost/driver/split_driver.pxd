"""The driver side of one split virtqueue. Virtio 1.2, section 2.7."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.virtio_ring cimport virtq_desc
from fastvhost.driver.queue cimport DriverQueue, Piece, QueueFormat


cdef void split_format(QueueFormat *format) noexcept nogil
cdef void split_prepare(DriverQueue *queue) noexcept nogil
cdef void split_lay_chain(
    DriverQueue *queue, uint32_t slot, const Piece *pieces, uint32_t n_pieces, bint writable,
    virtq_desc *table, uint64_t table_guest_addr,
) noexcept nogil
