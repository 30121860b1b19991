"""A port that a program of this process owns. Its functions without the GIL are in endpoint_slots.

One thread at a time may call those. The Python methods call them, and hold the GIL meanwhile.
"""

from fastvhost.dataplane.ports.endpoint_slots cimport EndpointSlots
from fastvhost.dataplane.ports.parcels cimport Parcels


cdef class Endpoint(EndpointSlots):
    cdef readonly bint closed
    cdef readonly bint offloads
    cdef bint wait_for(self, Parcels *ring, double timeout) except -1
