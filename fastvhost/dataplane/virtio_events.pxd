"""What workers found of a virtio-net device since its control thread looked last."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.virtio_device cimport Device


cdef list take_events(Device *device, uint32_t n_queues)
