"""Eventfds of ours, which threads wake each other by, and waiting for them. eventfd(2), poll(2).

What a front-end handed over is no eventfd of ours: notify.pxd has how such a one is signalled.
"""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport timespec

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<sys/uio.h>" nogil:
    struct eventfd_part "iovec":
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const eventfd_part *parts, int n, long offset, int flags)
    const int RWF_NOWAIT

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout_ms)
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *signals)
    const short POLLIN

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int most, int timeout_ms)
    const int EPOLL_CLOEXEC
    const int EPOLL_CTL_ADD
    const int EPOLL_CTL_DEL
    const uint32_t EPOLLIN


cdef inline void wake_eventfd(int fd) noexcept nogil:
    """Wake whoever waits for it. Where it is full, they wake anyway."""
    eventfd_write(fd, 1)


cdef inline void await_eventfd(int fd) noexcept nogil:
    """Wait until somebody wakes it, where its flags let a read wait. A signal ends the wait, too."""
    cdef uint64_t count
    eventfd_read(fd, &count)


cdef inline uint64_t drain_eventfd(int fd) noexcept nogil:
    """Take what an eventfd has counted, and return it. Never blocks, whatever its flags say: they are shared."""
    cdef uint64_t count = 0
    cdef eventfd_part part = eventfd_part(&count, sizeof(count))
    if preadv2(fd, &part, 1, -1, RWF_NOWAIT) != sizeof(count):
        return 0
    return count
