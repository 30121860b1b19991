"""The position of a packed ring, noted outside of the process, for the fwd that serves its driver after a restart.

A split ring's position can be read from its used index. A packed ring has only flags (virtio 1.2, section 2.8.1), so
its worker notes each batch *before* it writes it: where it begins, the position after it, and its used entries. The
next fwd reads the flags where the batch begins. They say used: then the position is after the batch. Or not: then the
whole batch is written again (packed_journal). So no frame that was delivered is taken again from this ring, and none
is lost.

A *place* is an index and, in bit 15, the wrap counter that belongs to it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove

from fastvhost.abi.shared_memory cimport store_release_u64
from fastvhost.dataplane.frame cimport Done

cdef enum:
    JOURNALED = 1024         # used entries of a batch: as many as receiveq.pxd's MAX_RECEIVE_CHAINS


cdef struct Journal:
    # written when the ring starts
    uint64_t descriptor_user_addr, driver_user_addr, device_user_addr
    uint32_t size            # of the ring; 0: nothing is noted here
    uint32_t base            # what the front-end said that it starts from
    # written by its worker
    uint64_t batch           # see Batch
    uint8_t apart[24]        # entries, and the next ring's journal, begin at a cache line
    Done done[JOURNALED]     # the batch's used entries


# What `batch` says, taken apart.
cdef struct Batch:
    uint16_t before          # where an earlier batch began, which was shown to the driver
    uint16_t first           # where this one begins
    uint16_t behind          # the position after it
    uint16_t n               # its used entries; 0: none was made yet since the ring started at `behind`
    bint has_before


cdef inline uint64_t batch_word(Batch batch) noexcept nogil:
    return (
        batch.before | <uint64_t>batch.first << 16 | <uint64_t>batch.behind << 32 | <uint64_t>batch.n << 48
        | <uint64_t>batch.has_before << 63
    )


cdef inline Batch batch_of(uint64_t word) noexcept nogil:
    return Batch(
        <uint16_t>word, <uint16_t>(word >> 16), <uint16_t>(word >> 32), <uint16_t>(word >> 48) & 0x7fff, word >> 63
    )


cdef inline void note_batch(
    Journal *journal, uint16_t first, uint16_t behind, const Done *done, uint32_t n
) noexcept nogil:
    """Note a batch, by one store. The one before, whose entries are overwritten, was shown to the driver already."""
    cdef Batch batch = batch_of(journal.batch)
    if batch.n:
        batch.before, batch.has_before = batch.first, True
    batch.first, batch.behind, batch.n = first, behind, <uint16_t>n
    memmove(journal.done, done, n * sizeof(Done))  # the library's: of memcpy gcc makes an instruction that is slow here
    store_release_u64(&journal.batch, batch_word(batch))
