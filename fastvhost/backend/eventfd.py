"""Checks the file descriptors that a front-end sends as kick, call and err of a ring: eventfds, mostly.

A front-end could send another kind of file, where a poll or a write goes to a program of its choice (FUSE) and may wait
for ever; so only eventfds are taken, and where we only write, sockets of AF_UNIX too (user-mode Linux sends one).
"""

import os

from fastvhost.backend.errors import ProtocolError
from fastvhost.dataplane.notify import is_unix_socket

_LINK = "anon_inode:[eventfd]"


def check(fd: int, what: str, *, or_socket: bool = False) -> None:
    """Raises ProtocolError unless it is an eventfd. Reads the link, which asks no file system; fstat might.

    or_socket: a socket of AF_UNIX is taken as well.
    """
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    except OSError as error:
        raise ProtocolError(f"{what}: cannot look at its file descriptor: {error.strerror}") from error
    if link != _LINK and not (or_socket and link.startswith("socket:[") and is_unix_socket(fd)):
        raise ProtocolError(f"{what}: its file descriptor is no eventfd but {link[:60]!r}")


def unblock(fd: int) -> None:
    """Set O_NONBLOCK: a full eventfd would block the notify thread. Its other owner can undo that; see notifier."""
    os.set_blocking(fd, False)


def count(fd: int) -> int:
    """The counter, read without resetting it; 0 where it cannot be read."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:  # noqa: PTH123
            for line in info:
                name, _, value = line.partition(":")
                if name == "eventfd-count":
                    return int(value, 16)
    except (OSError, ValueError):
        pass
    return 0
