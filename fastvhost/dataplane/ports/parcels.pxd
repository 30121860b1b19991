"""A ring of parcels between two threads of one process: one puts in, one takes out, neither ever waits."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32
from fastvhost.dataplane.debug cimport DEBUG, check


# A slot of an endpoint's memory, and how many bytes of it are a frame.
cdef struct Parcel:
    uint32_t slot
    uint32_t bytes


# The positions count parcels and wrap at 2^32; each thread's position has a cache line of its own.
cdef struct Parcels:
    uint32_t put_at          # written by the thread that puts in
    uint32_t staged          # parcels put in and not shown yet; written by the same thread
    uint32_t padding[14]
    uint32_t taken_at        # written by the thread that takes out
    uint32_t more_padding[15]
    uint32_t mask
    Parcel *room             # one for each slot there is, so never full


cdef inline bint make_parcels(Parcels *ring, uint32_t size) noexcept:
    """size: a power of two. False: out of memory."""
    ring.mask = size - 1
    ring.room = <Parcel *>calloc(size, sizeof(Parcel))
    return ring.room != NULL


cdef inline void free_parcels(Parcels *ring) noexcept:
    free(ring.room)


cdef inline uint32_t parcels_there(const Parcels *ring) noexcept nogil:
    """How many can be taken out. For the thread that takes."""
    return load_acquire_u32(&ring.put_at) - ring.taken_at  # pairs with show_parcels


cdef inline Parcel take_parcel(Parcels *ring) noexcept nogil:
    """Take the next one out. Only after parcels_there() has said that there is one."""
    cdef Parcel parcel = ring.room[ring.taken_at & ring.mask]
    if DEBUG:
        check(parcels_there(ring) > 0, "parcels: what is taken out was put in")
    ring.taken_at += 1
    return parcel


cdef inline void put_parcel(Parcels *ring, uint32_t slot, uint32_t bytes) noexcept nogil:
    """Put one in; show_parcels() makes it visible. There is always room, since a slot is in one ring only."""
    check(ring.put_at + ring.staged - ring.taken_at <= ring.mask, "parcels: a ring of them is never full")
    ring.room[(ring.put_at + ring.staged) & ring.mask] = Parcel(slot, bytes)
    ring.staged += 1


cdef inline void show_parcels(Parcels *ring) noexcept nogil:
    store_release_u32(&ring.put_at, ring.put_at + ring.staged)  # pairs with parcels_there
    ring.staged = 0
