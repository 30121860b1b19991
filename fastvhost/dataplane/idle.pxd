"""What a worker does when a round found no frame: spin, nap, or sleep until a driver kicks.

No kick can be lost. The worker asks for kicks, makes a full fence, looks at every queue once more, and only then
sleeps. The driver stores its index, makes a full fence, and then reads whether to kick (virtio 1.2, section
2.7.13.4.1). In any order of these steps one of the two sees the other's store. A driver that does not kick although it
was asked to is noticed, and its rings are polled in naps without a sleep. A kick that comes late, after its frame was
found, counts as a kick, since it would have ended a sleep.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.door cimport Gate
from fastvhost.dataplane.eventfd cimport pollfd
from fastvhost.dataplane.forward.waiting cimport Backlogs
from fastvhost.dataplane.roster cimport Roster


cdef enum IdlePolicy:
    IDLE_POLL
    IDLE_ADAPTIVE
    IDLE_INTERRUPT


cdef enum:
    MORE_FDS = 2             # beside those of lanes: the gate's, and that of the epoll of parked lanes


cdef struct Idle:
    IdlePolicy policy
    uint64_t nap_ns          # the longest nap
    pollfd *fds              # one a lane, and MORE_FDS
    const Backlogs *backlogs
    # written by the worker
    uint32_t empty_rounds    # in a row; the worker's loop sets it to 0 with every frame
    uint64_t since           # monotonic ns of the first look at the clock in this row
    uint64_t sleeps          # times the worker went to sleep until something happened


cdef uint64_t asleep_for(const Roster *roster, uint64_t ns) noexcept nogil
cdef void rest(Idle *idle, Gate *gate, Roster *roster) noexcept nogil
