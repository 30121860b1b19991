"""The eventfds of a ring: what a front-end hands over as kick, call and err, and how to use it without ever waiting.

A front-end could send another kind of file, where a poll or a write goes to a program of its choice (FUSE) and may wait
for ever; so only eventfds are taken.
"""

import contextlib
import os
import select

from fastvhost.frontend.errors import ProtocolError

_LINK = "anon_inode:[eventfd]"


def check(fd: int, what: str) -> None:
    """Raises ProtocolError unless it is an eventfd. Reads the link, which asks no file system; fstat might."""
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    except OSError as error:
        raise ProtocolError(f"{what}: cannot look at its file descriptor: {error.strerror}") from error
    if link != _LINK:
        raise ProtocolError(f"{what}: its file descriptor is no eventfd but {link[:60]!r}")


def unblock(fd: int) -> None:
    """A blocking eventfd at its maximum would hold whoever writes it."""
    os.set_blocking(fd, False)


def signal(fd: int) -> None:
    """Add 1. A counter at its maximum is as good as signalled."""
    # Looking first: O_NONBLOCK belongs to the open file, and its other owner could have cleared it since unblock().
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    if poller.poll(0):
        with contextlib.suppress(OSError):
            os.eventfd_write(fd, 1)


def count(fd: int) -> int:
    """The counter, without taking it; 0 when it cannot be seen."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:  # noqa: PTH123
            for line in info:
                name, _, value = line.partition(":")
                if name == "eventfd-count":
                    return int(value, 16)
    except (OSError, ValueError):
        pass
    return 0
