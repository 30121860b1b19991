"""Files whose last close blocks: eventfds watched by an epoll whose lock is held. userfaultfd(2), epoll(7).

A process holds the lock while it waits in a page fault: its epoll_wait writes results to a page that nobody provides.
Run as a program, this file is that process; Held starts it for a test.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path

from bench.guests.waits import MAX_WAIT

_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_PIDFD_GETFD = 438
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_MISSING = 1


class Held:
    """Readable eventfds that the test closes. Their last close blocks until the `with` block ends."""

    def __init__(self, files: int = 1) -> None:
        self.fds = [os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(files)]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.held_files", *map(str, self.fds)],
            pass_fds=self.fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert self._holder.stdout is not None
        self._number = int(self._holder.stdout.readline())

    def __enter__(self) -> list[int]:
        return self.fds

    def epoll(self) -> int:
        """Another descriptor of the epoll whose lock is held. pidfd_getfd(2)"""
        pidfd = os.pidfd_open(self._holder.pid)
        fd: int = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, self._number, 0)
        os.close(pidfd)
        assert fd >= 0
        return fd

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.wait(MAX_WAIT)
        for pipe in (self._holder.stdin, self._holder.stdout):
            assert pipe is not None
            pipe.close()
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def _hold(fds: list[int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    uffd = libc.syscall(_USERFAULTFD[platform.machine()], os.O_CLOEXEC | os.O_NONBLOCK)
    if uffd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    fcntl.ioctl(uffd, _UFFDIO_API, bytearray(struct.pack("=3Q", 0xAA, 0, 0)))
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    page = libc.mmap(None, ctypes.c_size_t(mmap.PAGESIZE), 3, kind, -1, ctypes.c_long(0))
    fcntl.ioctl(uffd, _UFFDIO_REGISTER, bytearray(struct.pack("=4Q", page, mmap.PAGESIZE, _MISSING, 0)))
    epoll = select.epoll()
    for fd in fds:
        epoll.register(fd, select.EPOLLIN)
    arguments = (epoll.fileno(), ctypes.c_void_p(page), 1, -1)
    threading.Thread(target=libc.epoll_wait, args=arguments, daemon=True).start()
    fault = select.poll()
    fault.register(uffd, select.POLLIN)
    assert fault.poll(MAX_WAIT * 1000)
    for fd in fds:  # the test has them
        os.close(fd)
    print(epoll.fileno(), flush=True)
    sys.stdin.read()  # it is killed before


if __name__ == "__main__":
    _hold([int(word) for word in sys.argv[1:]])
