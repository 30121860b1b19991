"""What the load asks of a ring format, whatever its layout: lay chains once, then take and give slots for ever.

A *slot* is a buffer with its chain of descriptors. Both are laid once and never change; what circulates are slots.
A format (split_driver; others beside it) fills in a QueueFormat. Its functions are called once per burst.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.abi.virtio_ring cimport virtq_avail, virtq_desc, virtq_used


cdef enum:
    DRIVER_BURST = 64      # slots per call at the most; the forwarder's bursts have the same size
    MAX_PIECES = 64        # of one chain


cdef struct Completion:
    uint32_t slot
    uint32_t bytes         # written by the device: receiveq only


cdef struct Piece:
    uint64_t guest_addr
    uint32_t bytes


cdef struct DriverQueue:
    # Set before the queue starts.
    virtq_desc *desc
    virtq_avail *avail
    virtq_used *used
    uint16_t size
    uint16_t n_slots
    uint16_t shift         # a slot's chain starts at descriptor slot << shift
    bint event_idx
    int kick_fd            # -1: the device polls, it is never kicked
    # The load's thread.
    uint16_t next_avail
    uint16_t next_used
    uint16_t n_given       # slots the device holds
    uint16_t broken        # 1 once the device returned what it did not hold
    uint64_t kicks


ctypedef uint32_t (*take_fn)(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil
ctypedef void (*untake_fn)(DriverQueue *queue, uint32_t n) noexcept nogil
ctypedef void (*give_fn)(DriverQueue *queue, const Completion *slots, uint32_t n) noexcept nogil


cdef struct QueueFormat:
    take_fn take           # slots the device has used, oldest first
    untake_fn untake       # the last n taken count as not taken
    give_fn give           # make slots available, publish once, kick if asked
