"""Whose turn it is at a receive queue that several workers deliver to.

A trylock with a short bounded spin. Its holder may wait for a page of the receiver's memory: then the others go on, and
their frames count as without room.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport add_u64, cpu_pause, load_i32, replace_i32, store_release_i32


cdef enum:
    # Longer than a visit takes (frame.pxd, VISIT_BYTES), where its worker has a CPU.
    MOST_SPINS = 2000


cdef struct DeliveryLock:
    int32_t taken
    uint64_t missed          # frames dropped because it was taken for too long
    uint8_t apart[48]        # each has a cache line of its own


cdef inline bint try_lock(DeliveryLock *lock) noexcept nogil:
    """False: another worker has it now."""
    return load_i32(&lock.taken) == 0 and replace_i32(&lock.taken, 0, 1)


cdef inline bint take_lock(DeliveryLock *lock) noexcept nogil:
    """False: another worker has it for too long."""
    cdef uint32_t _spin
    for _spin in range(<uint32_t>MOST_SPINS):
        if try_lock(lock):
            return True
        cpu_pause()
    return False


cdef inline void give_lock(DeliveryLock *lock) noexcept nogil:
    store_release_i32(&lock.taken, 0)


cdef inline void count_missed(DeliveryLock *lock, uint64_t frames) noexcept nogil:
    """Counted without the lock, and so not in the queue's tally."""
    add_u64(&lock.missed, frames)
