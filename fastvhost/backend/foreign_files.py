"""Files that another program opened. To look at one, or even to close it, may mean waiting for that program.

fstat, fstatfs and close call the file's own file system, and a front-end may have chosen one (FUSE) that does not
answer. What kind of file it is, is therefore decided without asking it: by the link in /proc/self/fd, and by whether it
can be sealed, which only the kernel's memory files can. fdinfo will not do: an epoll's takes a lock that its owner may
hold.

Every file descriptor that a front-end sends is *kept* as soon as it arrives: the helper process (`keeper`) has a
duplicate. So neither a close here nor the exit of fwd is the last close of the file, which may wait for a lock that
somebody else holds. Other files with a path are not kept: any close of one may wait (FUSE), so a *foreign-file* thread
closes them (`quota`). Without a helper process, files whose close cannot wait are closed at once, others by such a
thread.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import functools
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from fastvhost.backend import keeper, quota
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.quota import NoPlaceError
from fastvhost.dataplane.guest_memory import file_system, why_not

T = TypeVar("T")

ANSWER_WITHIN = 5.0
"""Seconds. A file system answers in microseconds, except on an overloaded machine."""
UNANSWERED = "its file system does not answer; use memory-backend-memfd, or a file on tmpfs or hugetlbfs"
SO_PASSRIGHTS = 83
"""Whether a socket takes file descriptors. Linux, include/uapi/asm-generic/socket.h"""
EVENTFD = "anon_inode:[eventfd]"
MOST_CARRIED = 253
"""The most descriptors that one message on a socket carries: the kernel's SCM_MAX_FD. unix(7)"""
_ANCILLARY_BYTES = socket.CMSG_SPACE(MOST_CARRIED * array.array("i").itemsize)
_RECEIVE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC

CROWDED = "too many files that its front-ends sent cannot be closed, something of theirs holds them"

_keys: dict[int, int] = {}
"""The keys of the helper process's duplicates, by our file descriptor."""
_stop: ContextVar[Future[None] | None] = ContextVar("stop", default=None)


def give_up_with(stop: Future[None]) -> None:
    """From now on this thread stops waiting for an answer once `stop` has a result."""
    _stop.set(stop)


class GuestFile(NamedTuple):
    """A file that may be guest memory."""

    identity: tuple[int, int]
    """Device and inode."""
    page: int
    """Bytes."""
    bytes: int = 0
    allocated: int = 0
    """Bytes of the file that have pages already."""


def examine(fd: int, *, any_file: bool = True) -> GuestFile:
    """Look at a file that is to be guest memory. Raises ProtocolError, one sentence, where it must not be.

    any_file: a file system on a disk is allowed, too; to learn which one it is, the file system is asked.
    """
    try:
        if is_kernel_memory(fd):
            served_by, page = file_system(fd)
        elif any_file:
            served_by, page = within(functools.partial(file_system, fd))
        else:
            raise ProtocolError(
                f"guest memory is no memfd and lies on no tmpfs or hugetlbfs, but is {link(fd)[:60]!r}; "
                "use memory-backend-memfd, or a file on tmpfs or hugetlbfs; for one on a local disk give the port "
                "memory-files=any"
            )
        if served_by is not None:
            raise ProtocolError(f"guest memory {why_not(served_by)}")
        status = os.fstat(fd)
    except OSError as error:
        raise ProtocolError(f"guest memory: its file descriptor cannot be examined: {error.strerror}") from error
    return GuestFile((status.st_dev, status.st_ino), page, status.st_size, status.st_blocks * 512)


def link(fd: int) -> str:
    """The file's name in /proc/self/fd. Asks no file system. Raises OSError."""
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115


def is_kernel_memory(fd: int) -> bool:
    """Whether it is a memfd, or a file on tmpfs or hugetlbfs, of any mount namespace. Asks no file system."""
    # fcntl(2), F_GET_SEALS: the kernel looks at what kind of file it is, and answers EINVAL for every other one.
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) >= 0
    except OSError:
        return False


def within(call: Callable[[], T], late: Callable[[T], object] = lambda _: None, *, unanswered: str = UNANSWERED) -> T:
    """Run call() in a thread. Returns or raises what it does.

    Raises ProtocolError after ANSWER_WITHIN; a later result goes to `late`.

    Raises it, too, once this thread is to give up, and at once where too many such threads of its port wait already.
    """
    try:
        future, stop = quota.current().start(call), _stop.get()
    except NoPlaceError as error:
        raise ProtocolError(f"{error.args[0]}; memory on memfd, tmpfs or hugetlbfs still can be used") from error
    awaited: list[Future[Any]] = [future] if stop is None else [future, stop]
    wait(awaited, ANSWER_WITHIN, FIRST_COMPLETED)
    if future.done():
        return future.result()
    future.add_done_callback(lambda done: None if done.exception() else late(done.result()))
    raise ProtocolError(unanswered if stop is None or not stop.done() else "given up, because the port is to stop")


def refuse_files(listener: socket.socket) -> None:
    """Have connections made from now on take no file descriptors. Linux 6.16; before, nothing changes."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def receive(sock: socket.socket, n_bytes: int) -> tuple[bytes, list[int], bool]:
    """Returns data, the descriptors that came with it (kept from now on), and whether some were lost. Does not wait.

    sock: a stream socket of AF_UNIX. There is room for as many descriptors as one message carries. The kernel closes a
    descriptor that finds no room, in this thread, which may wait; so also one beyond the limit of open files. Therefore
    as many descriptors are kept in reserve (control/open_files). Raises OSError.
    """
    data, ancillary, flags, _ = sock.recvmsg(n_bytes, _ANCILLARY_BYTES, _RECEIVE)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    if fds:
        keep(fds)
    return data, list(fds), bool(flags & socket.MSG_CTRUNC)


def keep(fds: Sequence[int]) -> None:
    """Have the helper process duplicate descriptors that just arrived, so that no close here is the last of a file."""
    helper = keeper.running()
    if helper is None:
        return
    kept = [fd for fd in fds if _is_kept(fd)]
    helper.let_go([_keys.pop(fd) for fd in kept if fd in _keys])  # the key of an earlier file with this number
    for at in range(0, len(kept), keeper.MOST):
        part = kept[at : at + keeper.MOST]
        _keys.update(zip(part, helper.keep(quota.current().number, part), strict=False))


def check_room() -> None:
    """Raises ProtocolError where the port's front-ends have sent too many files already that cannot be closed."""
    helper = keeper.running()
    if helper is not None and helper.crowded(quota.current().number):
        raise ProtocolError(CROWDED)


def duplicate(fd: int) -> int:
    """Another descriptor of the same file, kept like the first."""
    copy = os.dup(fd)
    keep([copy])
    return copy


class Pin:
    """Keeps munmap() from being the last use of a file, as keep() keeps close() from being it."""

    def __init__(self, fd: int) -> None:
        helper = keeper.running()
        port = quota.current().number
        self._keys = helper.keep(port, [fd]) if helper is not None and _is_kept(fd) else []

    def release(self) -> None:
        """After the mapping is gone. Idempotent."""
        keys, self._keys = self._keys, []
        if helper := keeper.running():
            helper.let_go(keys)


def close(fd: int) -> None:
    """Close without waiting for another program. What close() returns is ignored."""
    close_all([fd])


def close_socket(sock: socket.socket) -> None:
    """The same for a connection or a listener, which also holds files that were sent and not received. Idempotent."""
    if keeper.running() is None:
        sock.close()
        return
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # the peer is told at once
    if (fd := sock.detach()) >= 0:
        close(fd)


def close_all(fds: list[int]) -> None:
    """close() for each, and leave none in the list."""
    mine, fds[:] = fds[:], []
    keep([fd for fd in mine if fd not in _keys])
    keys = []
    foreign = []
    for fd in mine:
        if (key := _keys.pop(fd, None)) is not None:
            keys.append(key)
            with contextlib.suppress(OSError):
                os.close(fd)
        elif not _closes_at_once(fd):
            foreign.append(fd)
    if helper := keeper.running():
        helper.let_go(keys)
    if foreign:
        quota.current().close(foreign)


def _is_kept(fd: int) -> bool:
    """Whether only its last close may wait: it is kernel memory, or has no path (a path starts with a slash)."""
    try:
        return not link(fd).startswith("/") or is_kernel_memory(fd)
    except OSError:
        return False


def _closes_at_once(fd: int) -> bool:
    """Close it here if its close cannot wait. Returns whether it did."""
    with contextlib.suppress(OSError):
        # The last close of an eventfd waits for the lock of an epoll that watches it. Where the helper process is only
        # slow, that is not risked.
        if is_kernel_memory(fd) or (keeper.running() is None and link(fd) == EVENTFD):
            os.close(fd)
            return True
    return False
