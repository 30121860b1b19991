"""Counters of one direction of one queue pair. Written by the worker that owns the queue, read by statistics."""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.drop_reason cimport N_DROP_REASONS, DropReason


cdef struct Tally:
    uint64_t frames
    uint64_t bytes
    uint64_t cut             # super-frames that are in `frames`, or dropped, as pieces
    uint64_t segmented       # those pieces
    uint64_t copies          # deliveries of frames that this port received, beyond one each (flooded)
    uint64_t spent           # deliveries that the budget of a visit ended, not want of room
    uint64_t dropped[N_DROP_REASONS]


cdef inline void count_drops(Tally *tally, DropReason reason, uint64_t n) noexcept nogil:
    """The one place where a dropped frame is counted."""
    tally.dropped[<int>reason] += n
