"""Processes that help a hostile front-end: each does something to a kernel object that fwd has a descriptor of.

`Accomplice` starts one; the name of a function of this file says what it does. In attack turns it works on the
descriptor `aimed`, in quiet turns on an object of its own, so that it does as much work in both.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

AIMED, READY = 0, 1
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
SYS_USERFAULTFD, UFFDIO_API, UFFDIO_REGISTER, UFFD_API, UFFD_MISSING = 323, 0xC018AA3F, 0xC020AA00, 0xAA, 1
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
EFD_MAXIMUM = 2**64 - 2


class PollEntry(ctypes.Structure):
    """struct pollfd. poll(2)"""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Accomplice:
    """The process, seen from the test."""

    def __init__(self, what: str, fds: Sequence[int], *numbers: int, aimed: bool = False) -> None:
        board = os.memfd_create("board")
        os.ftruncate(board, mmap.PAGESIZE)
        self._board = mmap.mmap(board, mmap.PAGESIZE)
        self.aim(aimed)
        words = [what, str(board), ",".join(map(str, fds)), *map(str, numbers)]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.hostile.accomplice", *words],
            pass_fds=(board, *fds),
        )
        os.close(board)
        deadline = time.monotonic() + 30.0
        while not self._board[READY]:
            assert self.process.poll() is None, f"the accomplice {what} ended"
            assert time.monotonic() < deadline, f"the accomplice {what} does not start"
            time.sleep(0.002)

    def aim(self, on: bool) -> None:
        self._board[AIMED] = on

    def stop(self) -> None:
        """End the process, also where it waits in the kernel."""
        self.process.kill()
        self.process.wait(30)


def waits_many_times(board: mmap.mmap, fds: Sequence[int], entries: int) -> None:
    """Waits in one poll() with `entries` entries for the same object."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < entries:
        resource.setrlimit(resource.RLIMIT_NOFILE, (entries, entries))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(entries, most), max(entries, most)))
    table = (PollEntry * entries)(*[PollEntry(fds[0], 0, 0)] * entries)
    board[READY] = 1
    LIBC.poll(table, entries, -1)


def page_that_does_not_come() -> ctypes.c_void_p:
    """A page that blocks each thread that touches it: its faults go to a userfaultfd that nobody reads. As root."""
    uffd = LIBC.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
    assert uffd >= 0, "no userfaultfd; it needs root, or sysctl vm.unprivileged_userfaultfd=1"
    page = LIBC.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0)
    fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))
    fcntl.ioctl(uffd, UFFDIO_REGISTER, struct.pack("QQQQ", page, mmap.PAGESIZE, UFFD_MISSING, 0))
    return ctypes.c_void_p(page)


def sits_under_an_epoll(board: mmap.mmap, fds: Sequence[int]) -> None:
    """Waits in epoll_wait(), which holds the epoll's mutex while it waits for a page that does not come."""
    page = page_that_does_not_come()
    board[READY] = 1
    LIBC.epoll_wait(fds[0], page, 1, -1)


def sits_in_a_pipe(board: mmap.mmap, fds: Sequence[int]) -> None:
    """Waits in read(), which holds the pipe's mutex while it waits for a page that does not come."""
    page = page_that_does_not_come()
    board[READY] = 1
    LIBC.read(fds[0], page, 1)


def toggles_blocking(board: mmap.mmap, fds: Sequence[int]) -> None:
    """Switches O_NONBLOCK of a shared open file on and off, and keeps its counter full."""
    own = os.eventfd(EFD_MAXIMUM & 0xFFFFFFFF)
    board[READY] = 1
    while True:
        fd = fds[0] if board[AIMED] else own
        for _ in range(1000):
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR | os.O_NONBLOCK)
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR)


def punches_holes(board: mmap.mmap, fds: Sequence[int], start: int, n_bytes: int) -> None:
    """Fills memory and punches holes into it: a thread that touches it meanwhile waits until all of it is punched."""
    own = os.memfd_create("own")
    os.ftruncate(own, start + n_bytes)
    board[READY] = 1
    while True:
        fd = fds[0] if board[AIMED] else own
        LIBC.fallocate(fd, 0, ctypes.c_long(start), ctypes.c_long(n_bytes))
        punch = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE
        LIBC.fallocate(fd, punch, ctypes.c_long(start), ctypes.c_long(n_bytes))


DEEDS: dict[str, Callable[..., None]] = {
    deed.__name__: deed
    for deed in (waits_many_times, sits_under_an_epoll, sits_in_a_pipe, toggles_blocking, punches_holes)
}


def main(what: str, board_fd: str, fds: str, *numbers: str) -> None:
    board = mmap.mmap(int(board_fd), mmap.PAGESIZE)
    with contextlib.suppress(KeyboardInterrupt):
        DEEDS[what](board, [int(fd) for fd in fds.split(",")], *map(int, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
