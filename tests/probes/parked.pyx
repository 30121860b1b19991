"""A port whose pairs are kicked, and that tells what its worker asked of it. Tests decide when frames come."""

import os

from libc.stdint cimport uint8_t, uint32_t

from fastvhost.dataplane.eventfd cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    drain_eventfd,
    epoll_ctl,
    epoll_event,
    wake_eventfd,
)
from fastvhost.dataplane.frame cimport Done, FrameBurst
from fastvhost.dataplane.port cimport LOOK_AGAIN, Port, PortOps

cdef enum:
    MOST_PAIRS = 128


cdef struct Kicks:
    uint8_t frame[60]
    bint possible                # False: nothing tells when frames come
    bint late                    # frames come just when kicks are asked for
    int fds[MOST_PAIRS]
    int reports_to[MOST_PAIRS]
    bint asked[MOST_PAIRS]
    uint32_t waiting[MOST_PAIRS]
    uint32_t received[MOST_PAIRS]
    uint32_t looks[MOST_PAIRS]


cdef uint32_t receive(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef Kicks *kicks = <Kicks *>port.state
    cdef uint32_t i, n = kicks.waiting[pair]
    kicks.looks[pair] += 1
    for i in range(n):
        burst.frames[i].data, burst.frames[i].bytes, burst.frames[i].n_segments = kicks.frame, 60, 1
        burst.done[i] = Done(i, 0)
    burst.n_frames, burst.n_segments = n, 0
    port.rx[pair].bytes += 60 * n
    kicks.waiting[pair] = 0
    kicks.received[pair] += n
    return n


cdef bint may_receive(PortOps *port, uint32_t pair) noexcept nogil:
    cdef Kicks *kicks = <Kicks *>port.state
    kicks.looks[pair] += 1
    return kicks.waiting[pair] != 0


cdef bint has_silent_work(PortOps *port, uint32_t pair) noexcept nogil:
    return (<Kicks *>port.state).waiting[pair] != 0


cdef int wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil:
    cdef Kicks *kicks = <Kicks *>port.state
    if not kicks.possible:
        return LOOK_AGAIN
    kicked[0] = drain_eventfd(kicks.fds[pair]) != 0
    return kicks.fds[pair]


cdef void want_kicks(PortOps *port, uint32_t pair, bint wanted) noexcept nogil:
    cdef Kicks *kicks = <Kicks *>port.state
    kicks.asked[pair] = wanted
    if wanted and kicks.late:
        kicks.waiting[pair] = 1


cdef int report_kicks(PortOps *port, uint32_t pair, int epoll_fd, void *lane, bint *kicked) noexcept nogil:
    cdef Kicks *kicks = <Kicks *>port.state
    cdef int fd = wait_fd(port, pair, kicked)
    cdef epoll_event event
    event.events, event.data.ptr = EPOLLIN, lane
    if fd >= 0 and epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0:
        kicks.reports_to[pair] = epoll_fd
    return fd


cdef void report_none(PortOps *port, uint32_t pair) noexcept nogil:
    cdef Kicks *kicks = <Kicks *>port.state
    cdef epoll_event nothing
    if kicks.reports_to[pair] >= 0:
        epoll_ctl(kicks.reports_to[pair], EPOLL_CTL_DEL, kicks.fds[pair], &nothing)
        kicks.reports_to[pair] = -1


cdef class KickedPort(Port):
    """Each of its pairs has an eventfd. possible: whether kicks are."""

    cdef Kicks kicks

    def __init__(self, name: str, uint32_t pairs, *, bint possible=True) -> None:
        cdef uint32_t i
        if pairs > <uint32_t>MOST_PAIRS:
            raise ValueError("so many pairs are not possible")
        self.name = name
        self.allot(pairs)
        self.ops.active_pairs = pairs
        self.kicks.possible = possible
        for i in range(<uint32_t>MOST_PAIRS):
            self.kicks.fds[i] = self.kicks.reports_to[i] = -1
        for i in range(pairs):
            self.kicks.fds[i] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ops.state = &self.kicks
        self.ops.receive_burst, self.ops.may_receive = receive, may_receive
        self.ops.wait_fd, self.ops.want_kicks, self.ops.has_silent_work = wait_fd, want_kicks, has_silent_work
        self.ops.report_kicks, self.ops.report_none = report_kicks, report_none

    def close(self) -> None:
        cdef uint32_t i
        for i in range(self.ops.n_pairs):
            if self.kicks.fds[i] >= 0:
                os.close(self.kicks.fds[i])
                self.kicks.fds[i] = -1

    def send(self, uint32_t pair, *, bint kick=True) -> None:
        self.kicks.waiting[pair] = 1
        if kick and self.kicks.asked[pair]:
            self.kick(pair)

    def kick(self, uint32_t pair) -> None:
        wake_eventfd(self.kicks.fds[pair])

    def set_late(self, bint late) -> None:
        self.kicks.late = late

    def set_active(self, uint32_t pairs) -> None:
        self.ops.active_pairs = pairs

    def change(self) -> None:
        """As a change of a port that takes effect: reports have ended."""
        cdef uint32_t i
        for i in range(self.ops.n_pairs):
            report_none(&self.ops, i)
        self.ops.changes += 1

    @property
    def asked(self) -> list[int]:
        return [i for i in range(self.ops.n_pairs) if self.kicks.asked[i]]

    @property
    def reported(self) -> list[int]:
        return [i for i in range(self.ops.n_pairs) if self.kicks.reports_to[i] >= 0]

    @property
    def received(self) -> list[int]:
        return [self.kicks.received[i] for i in range(self.ops.n_pairs)]

    @property
    def looks(self) -> list[int]:
        return [self.kicks.looks[i] for i in range(self.ops.n_pairs)]
