"""What a queue and its ring say now, for show and diagnosis: read from memory that may be slow to come."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.tally cimport Tally
from fastvhost.dataplane.virtio_device cimport Device


cdef object state_of(const Device *device, uint32_t index, list kept, const Tally *tally)
