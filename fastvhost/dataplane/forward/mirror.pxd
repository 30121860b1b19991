"""Mirrors: copies of what a port sends and receives go to another one."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.frame cimport Delivery


cdef void add_mirrors(Lane *lane, Delivery sent) noexcept nogil
