"""Frames that wait for room at receive queues, in memory of ours: what one worker has of them.

Memory comes in blocks of one pool: a frame has as many as it needs, and gives them back as it goes.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.dataplane.frame cimport BURST, Delivery, Frame, Head, Segment
from fastvhost.dataplane.offload.cut cimport Super
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.tally cimport Tally


# Powers of two: places in a ring of frames, or of blocks, are masked.
cdef enum:
    BLOCK_BYTES = 2048       # a frame of a usual MTU has one
    BACKLOG_FRAMES = 256     # that may wait for one queue,
    BACKLOG_BLOCKS = 256     # in so many blocks at most: 512 KiB
    POOL_BLOCKS = 8192       # of one worker: 16 MiB
    MOST_BACKLOGS = 256      # of one worker, for a queue each


cdef struct Waiting:
    uint64_t until           # monotonic ns: then it is dropped
    uint32_t bytes           # of it, or of what is left of it
    uint32_t skip            # in its first block, in front of what is left
    uint32_t n_blocks
    Head head                # heads[0] of a burst: it needs nothing


# Of one receive queue. Both arrays are rings.
cdef struct Backlog:
    PortOps *egress
    uint32_t pair
    uint32_t stops           # of the queue (PortOps) when the first frame came
    uint32_t number          # its place among the worker's
    bint stalled             # nothing of it was delivered when that was last tried
    uint32_t first
    uint32_t n
    uint32_t first_block
    uint32_t n_blocks
    uint16_t blocks[BACKLOG_BLOCKS]   # their numbers in the pool, frame after frame
    Waiting frames[BACKLOG_FRAMES]


# Everything in it belongs to one worker.
cdef struct Backlogs:
    uint32_t n_open          # at[0] to at[n_open - 1] have frames, the others none
    uint32_t next            # is delivered next, of a round
    uint64_t n_frames        # in all of them
    const Tally *queues[MOST_BACKLOGS]   # whose at[i] is, by the counters of that queue
    Backlog *at[MOST_BACKLOGS]
    # the pool: blocks from n_used on were never taken
    uint32_t n_used
    uint32_t n_free
    uint16_t free[POOL_BLOCKS]
    # where frames are laid out to be delivered
    Delivery delivery
    Frame frames[BURST]
    Head heads[BURST + 1]
    Segment segments[BACKLOG_BLOCKS]
    Super super
    # touched as far as it is used
    Backlog all[MOST_BACKLOGS]
    uint8_t pool[POOL_BLOCKS * BLOCK_BYTES]
