"""Frames of an endpoint that its program holds."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.ports.endpoint_slots cimport EndpointSlots
from fastvhost.dataplane.ports.parcels cimport Parcel


cdef class Burst:
    cdef EndpointSlots endpoint
    cdef Parcel *parcels
    cdef readonly uint32_t n
    cdef bint lent
    cdef bint gone
    cdef Parcel *at(self, Py_ssize_t index) except NULL
    cdef int check_offloads(self) except -1


cdef Burst new_burst(EndpointSlots endpoint, uint32_t most, bint lent)
