"""Limits of what a port may send, in bits and in frames a second: what is beyond waits in the sender's ring.

Nothing is dropped: a guest that sends too fast finds its transmitq full. A lane at its limit rests: it has frames in
hand, and none of them moves until there is room for them in its allowances. Whoever sleeps meanwhile (idle) need not
be woken by its driver, who could only add to what waits.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.forward.allowance cimport charge, empty_for, is_limited, room_ns
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.limit cimport Limit
from fastvhost.dataplane.frame cimport BURST


cdef bint police(Lane *lane) noexcept nogil:
    """See which frames of this visit may move now, and charge for them. False: none."""
    cdef Limit *limit = lane.limit
    cdef uint64_t now = limit.now_ns()
    cdef double room
    cdef uint64_t bytes = 0
    cdef uint32_t first = lane.first, end = lane.due, due = first
    if rest_of(limit, now):
        lane.due = first
        return False
    if is_limited(&limit.frames):
        room = <double>room_ns(&limit.frames, now) / limit.frames.unit_ns + 0.001
        if room < <uint32_t>BURST:
            end = min(end, first + max(<uint32_t>room, 1))
    if is_limited(&limit.bytes):
        room = <double>room_ns(&limit.bytes, now) / limit.bytes.unit_ns
        # The first one moves whatever its size, and is paid for afterwards.
        while due < end and (due == first or bytes < room):
            bytes += lane.burst.frames[due].bytes
            due += 1
        charge(&limit.bytes, now, <double>bytes)
        end = due
    if is_limited(&limit.frames):
        charge(&limit.frames, now, end - first)
    lane.due = end
    return True


cdef uint64_t rests_for(const Lane *lane) noexcept nogil:
    """Nanoseconds until frames that it has in hand may move; 0: it is not at its limit."""
    if lane.limit == NULL or lane.first == lane.burst.n_frames or lane.first != lane.due:
        return 0
    return rest_of(lane.limit, lane.limit.now_ns())


cdef uint64_t rest_of(const Limit *limit, uint64_t now) noexcept nogil:
    """Nanoseconds until there is room for more than a few frames in both allowances."""
    cdef uint64_t rest = 0, least
    if is_limited(&limit.bytes):
        least = min(<uint64_t>LEAST_REST_NS, limit.bytes.burst_ns >> 1)
        rest = empty_for(&limit.bytes, now, max(least, <uint64_t>1))
    if is_limited(&limit.frames):
        least = max(min(<uint64_t>LEAST_REST_NS, limit.frames.burst_ns >> 1), <uint64_t>limit.frames.unit_ns)
        rest = max(rest, empty_for(&limit.frames, now, least))
    return rest
