"""A port that a program of this process owns. The Cython face: take, lend, put_back and pass_on, all without the GIL.

One thread at a time may use that face; the Python methods are made of it and hold the GIL meanwhile.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.ports.parcels cimport Parcel, Parcels


cdef struct EndpointMemory:
    # set once
    uint8_t *memory          # n_slots of slot_bytes each
    uint32_t slot_bytes
    int program_fd           # eventfds: to the program, and to the worker
    int worker_fd
    # worker to program
    Parcels arrived          # frames
    Parcels returned         # empty slots
    # program to worker
    Parcels leaving          # frames
    Parcels vacant           # empty slots
    # whether the other side sleeps, or is about to
    uint32_t program_waits
    uint32_t worker_waits


cdef class Endpoint(Port):
    cdef EndpointMemory side
    cdef object memory       # the mapping, and a view of it
    cdef object view
    cdef readonly uint32_t slots, slot_bytes
    cdef readonly bint closed
    cdef uint32_t share      # slots that the program keeps for sending
    cdef uint32_t *spare     # lent and handed back unsent
    cdef uint32_t n_spare
    cdef uint32_t take(self, Parcel *parcels, uint32_t most) noexcept nogil
    cdef uint32_t lend_slots(self, Parcel *parcels, uint32_t most) noexcept nogil
    cdef void put_back(self, const Parcel *parcels, uint32_t n, bint lent) noexcept nogil
    cdef void pass_on(self, const Parcel *parcels, uint32_t n) noexcept nogil
    cdef void rebalance(self) noexcept nogil
    cdef bint wait_for(self, Parcels *ring, double timeout) except -1


cdef class Burst:
    cdef Endpoint endpoint
    cdef Parcel *parcels
    cdef readonly uint32_t n
    cdef bint lent
    cdef bint gone
    cdef Parcel *at(self, Py_ssize_t index) except NULL
