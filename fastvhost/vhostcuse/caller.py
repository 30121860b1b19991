"""The process that calls the device file: held by a pidfd, and a source of file descriptors.

The kernel names the calling thread. Its process is looked up once and held by a pidfd, so that another process that
gets the same number later is not mistaken for it. Each further call is checked to come from the same process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from typing import Protocol

from fastvhost.backend import foreign_files
from fastvhost.backend.errors import ProtocolError

_PIDFD_GETFD = 438
"""The system call's number, the same on every architecture (Linux 5.6)."""
_libc = ctypes.CDLL(None, use_errno=True)

PERMIT = (
    "run fwd as root, or with CAP_SYS_PTRACE (setcap cap_sys_ptrace+ep); as the same user it takes "
    "sysctl kernel.yama.ptrace_scope=0 and a QEMU that did not change its user"
)
ALLOW = "allow the system call pidfd_open in the seccomp filter of fwd, or take Linux 5.3"


class IoctlError(ProtocolError):
    """An ioctl that fails with a certain errno."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.errno = number


class Caller(Protocol):
    """The process of a caller. Tests have a fake one."""

    @property
    def pid(self) -> int: ...
    def is_caller(self, thread: int) -> bool:
        """Whether this thread belongs to the process."""
        ...

    def fetch(self, fd: int, wanted: str) -> int:
        """Duplicate a file descriptor of the process. wanted: what its link in /proc must be."""
        ...

    def fileno(self) -> int:
        """For poll(): readable once the process has ended."""
        ...

    def close(self) -> None: ...


class Process:
    """A process of this host. Raises IoctlError where it cannot be found, or no pidfd can be had."""

    def __init__(self, thread: int) -> None:
        self._pidfd = -1
        if thread == 0:
            raise IoctlError(
                errno.EPERM, "the caller is in another pid namespace; run both in one (a container's --pid=host)"
            )
        self.pid = _process_of(thread)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            remedy = f"; {ALLOW}" if error.errno in (errno.EPERM, errno.ENOSYS) else ""
            raise IoctlError(
                errno.ESRCH, f"process {self.pid} cannot be held: {error.strerror}{remedy}"
            ) from error
        if not self.is_caller(thread):  # another process has got the number meanwhile
            self.close()
            raise IoctlError(errno.ESRCH, f"process {self.pid} is gone")

    @property
    def alive(self) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)

    def is_caller(self, thread: int) -> bool:
        """Whether this thread belongs to the process. A thread that has ended does not."""
        try:
            return _process_of(thread) == self.pid and self.alive
        except IoctlError:
            return False

    def fetch(self, fd: int, wanted: str) -> int:
        """Raises IoctlError, in words."""
        link = _link(f"/proc/{self.pid}/fd/{fd}")
        if link is not None and link != wanted:
            raise IoctlError(errno.EINVAL, f"file descriptor {fd} of process {self.pid} is {link[:60]!r}, not {wanted}")
        ours = self._get(fd)
        foreign_files.keep([ours])
        if (link := _link(f"/proc/self/fd/{ours}")) != wanted:  # changed meanwhile
            foreign_files.close(ours)  # perhaps the last descriptor of our own device, whose close would wait for us
            raise IoctlError(errno.EINVAL, f"file descriptor {fd} of process {self.pid} is {str(link)[:60]!r}")
        return ours

    def _get(self, fd: int) -> int:
        ours: int = _libc.syscall(_PIDFD_GETFD, self._pidfd, fd, 0)
        if ours >= 0:
            return ours
        number = ctypes.get_errno()
        remedy = f"; {PERMIT}" if number in (errno.EPERM, errno.EACCES) else ""
        reason = os.strerror(number)
        raise IoctlError(number, f"file descriptor {fd} of process {self.pid} cannot be fetched: {reason}{remedy}")

    def fileno(self) -> int:
        return self._pidfd

    def close(self) -> None:
        """Idempotent."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _process_of(thread: int) -> int:
    """The process a thread belongs to: its Tgid (proc(5)). A pidfd needs that number."""
    try:
        with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123
            for line in status:
                name, _, value = line.partition(":")
                if name == "Tgid":
                    return int(value)
    except (OSError, ValueError) as error:
        raise IoctlError(errno.ESRCH, f"thread {thread}: its process cannot be found: {error}") from error
    raise IoctlError(errno.ESRCH, f"thread {thread}: its process cannot be found")


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return None
