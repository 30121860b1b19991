"""What the load asks of a ring format, whatever its layout: lay chains once, then take and give slots for ever.

A *slot* is a buffer with its chain of descriptors. Both are laid once and never change; what circulates are slots.
A format (split_driver; others beside it) fills in a QueueFormat. Its functions are called once per burst.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.abi.virtio_ring cimport virtq_desc

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void *buf, size_t count)


cdef enum:
    DRIVER_BURST = 64      # slots per call at the most; the forwarder's bursts have the same size
    MAX_PIECES = 64        # of one chain


cdef struct Completion:
    uint32_t slot
    uint32_t bytes         # written by the device: receiveq only


cdef struct Piece:
    uint64_t guest_addr
    uint32_t bytes


# A packed ring's descriptors are overwritten by the device; each slot's chain is kept here to be written again.
cdef struct PackedTemplate:
    uint64_t guest_addr
    uint64_t word          # len, id and flags as they stand in the descriptor, less the flags that say available


cdef struct DriverQueue:
    # Set before the queue starts.
    uint8_t *descriptor_area
    uint8_t *driver_area   # available ring, or driver event suppression
    uint8_t *device_area   # used ring, or device event suppression
    PackedTemplate *templates
    uint16_t size
    uint16_t n_slots
    uint16_t chain_length  # descriptors of the ring that a slot's chain takes
    uint16_t shift         # split: a slot's chain starts at descriptor slot << shift
    bint event_idx
    int kick_fd            # -1: the device polls, it is never kicked
    # The load's thread.
    uint16_t next_avail
    uint16_t next_used
    bint avail_wrap        # wrap counters (packed)
    bint used_wrap
    uint16_t n_given       # slots the device holds
    uint16_t broken        # 1 once the device returned what it did not hold
    uint64_t kicks


ctypedef uint32_t (*take_fn)(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil
ctypedef void (*untake_fn)(DriverQueue *queue, uint32_t n) noexcept nogil
ctypedef void (*give_fn)(DriverQueue *queue, const Completion *slots, uint32_t n) noexcept nogil


cdef struct QueueFormat:
    void (*prepare)(DriverQueue *queue) noexcept nogil   # an empty ring
    void (*lay_chain)(
        DriverQueue *queue, uint32_t slot, const Piece *pieces, uint32_t n_pieces, bint writable,
        virtq_desc *table, uint64_t table_guest_addr,
    ) noexcept nogil       # say where a slot's pieces are, in the ring or (table given) in an indirect table
    take_fn take           # slots the device has used, oldest first
    untake_fn untake       # the last n taken count as not taken
    give_fn give           # make slots available, publish once, kick if asked


cdef inline void kick(DriverQueue *queue) noexcept nogil:
    cdef uint64_t one = 1
    if write(queue.kick_fd, &one, 8) == 8:   # a full eventfd is already readable: nothing is lost
        queue.kicks += 1
