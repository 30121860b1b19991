"""Files that another program opened: to look at one, or only to close it, may mean to wait for that program. FUSE.

A file system of the front-end's own choice hears of fstat, fstatfs, open and close, and takes its time. What the mount
table shows as the kernel's own (memfd, tmpfs, hugetlbfs, disks) is used as it is. Everything else is asked in a thread
aside, which is left behind when no answer comes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastvhost.dataplane.guest_memory import file_system, why_not
from fastvhost.frontend.errors import ProtocolError

T = TypeVar("T")

ANSWER_WITHIN = 5.0
"""Seconds. A kernel answers in microseconds, but on an overloaded machine only once it comes to it."""
MOST_ASIDE = 64
"""Threads that wait. With so many, files that would have to be asked are refused, whosever they are."""
UNANSWERED = "its file system does not answer; use memory-backend-memfd, or a file on tmpfs or hugetlbfs"
OWN = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"})
"""File systems on which no other program has a say."""

_aside = threading.BoundedSemaphore(MOST_ASIDE)
_stop: ContextVar[Future[None] | None] = ContextVar("stop", default=None)


def give_up_with(stop: Future[None]) -> None:
    """From now on this thread waits for no answer any longer than until `stop` has a result."""
    _stop.set(stop)


class GuestFile(NamedTuple):
    """A file that may be guest memory."""

    identity: tuple[int, int]
    """Device and inode."""
    page: int
    """Bytes."""


def examine(fd: int) -> GuestFile:
    """A file that is to be guest memory. Raises ProtocolError, in words, where it must not."""
    try:
        served_by, page = file_system(fd) if _is_own(fd) else within(functools.partial(file_system, fd))
        if served_by is not None:
            raise ProtocolError(f"guest memory {why_not(served_by)}")
        status = os.fstat(fd)
    except OSError as error:
        raise ProtocolError(f"guest memory: its file descriptor cannot be examined: {error.strerror}") from error
    return GuestFile((status.st_dev, status.st_ino), page)


def within(
    call: Callable[[], T], late: Callable[[T], object] = lambda _: None, *, unanswered: str = UNANSWERED
) -> T:
    """What a call returns or raises. Raises ProtocolError after ANSWER_WITHIN; `late` gets what comes after that.

    Also as soon as this thread is to give up.
    """
    if not _aside.acquire(blocking=False):
        raise ProtocolError("too many files do not answer already; memory on memfd or a mounted hugetlbfs still can")
    future, stop = _start(call), _stop.get()
    awaited: list[Future[Any]] = [future] if stop is None else [future, stop]
    wait(awaited, ANSWER_WITHIN, FIRST_COMPLETED)
    if future.done():
        return future.result()
    future.add_done_callback(lambda done: None if done.exception() else late(done.result()))
    raise ProtocolError(unanswered if stop is None or not stop.done() else "given up, because the port is to stop")


def close(fd: int) -> None:
    """Close without waiting for anybody. What the file system thinks of it does not matter."""
    close_all([fd])


def close_all(fds: list[int]) -> None:
    """The same for each, and leave none in the list."""
    foreign, fds[:] = [fd for fd in fds if not _closes_at_once(fd)], []
    if not foreign:
        return
    if _aside.acquire(blocking=False):
        _start(functools.partial(_close, foreign))
    else:  # only the port of whoever brought so many of them waits now
        _close(foreign)


def _closes_at_once(fd: int) -> bool:
    """Whether that took no time, and is done."""
    with contextlib.suppress(OSError):
        if _is_plumbing(fd) or _is_own(fd):
            os.close(fd)
            return True
    return False


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _start(call: Callable[[], T]) -> Future[T]:
    """In a thread that may be left behind, one of MOST_ASIDE."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            answer = call()
        except BaseException as error:
            _aside.release()
            future.set_exception(error)
        else:
            _aside.release()
            future.set_result(answer)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future


def _is_plumbing(fd: int) -> bool:
    """An eventfd or a pipe. Any path starts with a slash, so that no file can be named like that."""
    link = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    return link == "anon_inode:[eventfd]" or link.startswith("pipe:[")


def _is_own(fd: int) -> bool:
    """Whether it is a plain file or directory of a file system that only the kernel serves."""
    mount = _mount_of(fd)
    if mount not in _memfd_mounts() and not _lists_own(mount):
        return False
    mode = os.fstat(fd).st_mode  # a device has its own idea of what closing means
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _mount_of(fd: int) -> int:
    """The number of the mount it was opened on (proc(5), fdinfo). It stays another's as long as the file is open."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    return -1


def _lists_own(mount: int) -> bool:
    """Whether the mount table (proc(5), mountinfo) shows it with one of those types."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        words = line.split()
        if int(words[0]) == mount:
            return words[words.index(b"-") + 1].decode() in OWN
    return False


@functools.cache
def _memfd_mounts() -> frozenset[int]:
    """Those of memfds, which no mount table shows: one for each size of pages."""
    flags = [0]
    for pages in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        size = int(pages.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        flags.append(os.MFD_HUGETLB | (size.bit_length() - 1) << os.MFD_HUGE_SHIFT)
    found = set()
    for more in flags:
        with contextlib.suppress(OSError):
            fd = os.memfd_create("fastvhost", os.MFD_CLOEXEC | more)
            found.add(_mount_of(fd))
            os.close(fd)
    return frozenset(found)
