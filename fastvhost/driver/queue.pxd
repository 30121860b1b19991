"""What a ring format does for the load: lay out chains at the start, then take and give slots again and again.

A *slot* is a buffer with its chain of descriptors. Neither changes after the start. A format (split_driver,
packed_driver) fills in a QueueFormat, whose functions are called once per burst.
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


# The device overwrites a packed ring's descriptors, so each slot's chain is kept here, to be written again.
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
    uint32_t buffer_bytes  # receiveq: what a slot's buffer holds
    uint32_t *used_bytes   # in order: of each slot that is known; else NULL
    bint event_idx
    int kick_fd            # -1: the device polls, it is never kicked
    # The load's thread.
    uint16_t next_avail
    uint16_t next_used
    bint avail_wrap        # wrap counters (packed)
    bint used_wrap
    uint16_t n_given       # slots given to the device and not taken back yet
    uint16_t next_slot     # in order: the oldest of those
    uint16_t n_known       # in order: used slots, from next_slot on, whose entries we have read
    uint16_t broken        # 1 after the device returned a slot that it did not have
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
    void (*want_calls)(DriverQueue *queue, bint wanted) noexcept nogil   # ask for a notification of the next used slot
    bint (*has_used)(const DriverQueue *queue) noexcept nogil


cdef inline void kick(DriverQueue *queue) noexcept nogil:
    cdef uint64_t one = 1
    if write(queue.kick_fd, &one, 8) == 8:   # a full eventfd refuses, and is readable already
        queue.kicks += 1


# With IN_ORDER (sections 2.7.9 and 2.8.8) slots are given and used from 0 to the last, and then from 0 again. One used
# entry may stand for a batch of slots up to the one it names. The bytes that entries tell are kept by slot, so that
# slots can be untaken.

cdef inline void take_next(DriverQueue *queue, Completion *done, uint32_t n_bytes) noexcept nogil:
    """Take the oldest slot, which an entry names alone."""
    cdef uint32_t slot = queue.next_slot
    done.slot, done.bytes = slot, n_bytes
    queue.used_bytes[slot] = n_bytes
    queue.next_slot = <uint16_t>(slot + 1 if slot + 1 < queue.n_slots else 0)
    queue.n_given -= 1


cdef inline uint32_t know_batch(DriverQueue *queue, uint32_t slot, uint32_t n_bytes, uint32_t most) noexcept nogil:
    """Note a batch, whose last slot an entry names. Returns its number of slots; 0: no such batch is possible."""
    cdef uint32_t skipped = queue.next_slot
    cdef uint32_t n
    if slot >= queue.n_slots:
        return 0
    n = slot - skipped + 1 if slot >= skipped else slot + queue.n_slots - skipped + 1
    if n > most:
        return 0
    while skipped != slot:
        queue.used_bytes[skipped] = queue.buffer_bytes   # their buffers were filled completely (section 2.7.9)
        skipped = skipped + 1 if skipped + 1 < queue.n_slots else 0
    queue.used_bytes[slot] = n_bytes
    queue.n_known = <uint16_t>n
    return n


cdef inline uint32_t take_known(DriverQueue *queue, Completion *done, uint32_t limit) noexcept nogil:
    cdef uint32_t n = min(limit, <uint32_t>queue.n_known)
    cdef uint32_t slot = queue.next_slot
    cdef uint32_t i
    for i in range(n):
        done[i].slot = slot
        done[i].bytes = queue.used_bytes[slot]
        slot = slot + 1 if slot + 1 < queue.n_slots else 0
    queue.next_slot = <uint16_t>slot
    queue.n_known -= <uint16_t>n
    queue.n_given -= <uint16_t>n
    return n


cdef inline void untake_known(DriverQueue *queue, uint32_t n) noexcept nogil:
    queue.next_slot = <uint16_t>(queue.next_slot - n if queue.next_slot >= n else queue.next_slot + queue.n_slots - n)
    queue.n_known += <uint16_t>n
    queue.n_given += <uint16_t>n
