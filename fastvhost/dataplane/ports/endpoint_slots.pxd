"""The memory of an endpoint, in slots that go round between its program and a worker by four rings of parcels.

take, lend_slots, put_back and pass_on need no GIL. One thread at a time may call them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.ports.parcels cimport Parcel, Parcels


cdef struct EndpointMemory:
    # set once
    uint8_t *memory          # n_slots of slot_bytes each
    uint32_t slot_bytes
    NetHeader *headers       # one a slot, of the frame in it; NULL where all frames are plain
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


cdef class EndpointSlots(Port):
    cdef EndpointMemory side
    cdef object memory       # the mapping, and a view of it
    cdef object view
    cdef readonly uint32_t slots, slot_bytes
    cdef uint32_t share      # slots that the program keeps for sending
    cdef uint32_t *spare     # slots of these that are ready to be lent
    cdef uint32_t n_spare
    cdef int make_slots(self, uint32_t slots, uint32_t slot_bytes, bint offloads) except -1
    cdef uint32_t take(self, Parcel *parcels, uint32_t most) noexcept nogil
    cdef uint32_t lend_slots(self, Parcel *parcels, uint32_t most) noexcept nogil
    cdef void put_back(self, const Parcel *parcels, uint32_t n, bint lent) noexcept nogil
    cdef void pass_on(self, const Parcel *parcels, uint32_t n) noexcept nogil
    cdef void rebalance(self) noexcept nogil


cdef inline uint8_t *slot_at(EndpointSlots endpoint, const Parcel *parcel) noexcept nogil:
    """Where a parcel's frame lies."""
    return endpoint.side.memory + <uint64_t>parcel.slot * endpoint.side.slot_bytes


cdef inline NetHeader *header_of(EndpointSlots endpoint, const Parcel *parcel) noexcept nogil:
    """What a parcel's frame asks for. NULL: its endpoint has no offloads."""
    return NULL if endpoint.side.headers == NULL else &endpoint.side.headers[parcel.slot]
