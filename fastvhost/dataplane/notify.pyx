"""Signals a descriptor that a front-end also has, from control threads and without waiting. See notify.pxd."""

import errno
import os

from libc.stdint cimport int32_t, uint64_t

from fastvhost.dataplane.clock cimport monotonic_ns

_REMEDIES = {
    errno.EAGAIN: "all of fs.aio-max-nr is in use; raise it with sysctl fs.aio-max-nr=1048576 and restart fwd",
    errno.EPERM: "the system call io_setup or memfd_create is not allowed here; allow it in the seccomp filter",
    errno.ENOSYS: "the system call io_setup or memfd_create is not there; allow it in the seccomp filter, or take a "
                  "kernel with CONFIG_AIO",
}

cdef extern from "fastvhost/dataplane/signal_foreign.h":
    int make_signals(signals *made)

cdef extern from "<sys/socket.h>" nogil:
    const int AF_UNIX

# One AIO context for all control threads of a process; a child of fork() does not inherit it.
cdef signals _shared
cdef int32_t _shared_error = 0
_made_in = 0

_shared_error = make_signals(&_shared)
_made_in = os.getpid()


cdef int make_thread_signals(signals *made) noexcept:
    """0, or the error number."""
    return make_signals(made)


cdef const signals *control_signals() noexcept nogil:
    return &_shared


cdef void judge_anew(Asked *asked) noexcept nogil:
    """How a new front-end is notified. Called while no worker runs a visit.

    One that comes within SLOW_SECONDS after a slow one is notified by the helper, too.
    """
    cdef uint64_t now = monotonic_ns()
    if asked.how == BY_HELPER:
        asked.slow_until = now + <uint64_t>SLOW_SECONDS * 1000000000
    if now >= asked.slow_until:
        asked.how, asked.samples = TIMED, 1  # as after one slow sample: the next eight are timed


def prepare() -> str:
    global _made_in, _shared_error
    if _made_in != os.getpid():
        _made_in, _shared_error = os.getpid(), make_signals(&_shared)
    return why_not(_shared_error)


def why_not(int32_t error) -> str:
    if error == 0:
        return ""
    return f"asynchronous I/O is not available: {_REMEDIES.get(error, os.strerror(error))}"


def signal(int fd) -> bool:
    cdef bint done
    with nogil:
        done = signal_socket(fd) or signal_eventfd(&_shared, fd)
    return done


def is_unix_socket(int fd) -> bool:
    return socket_domain(fd) == AF_UNIX
