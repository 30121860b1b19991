"""How connections to front-ends are made: a Listener accepts them at a path, a Dialer connects to one."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Callable

from fastvhost.backend import foreign_files
from fastvhost.backend.errors import ServiceError
from fastvhost.sockets.group import number_of
from fastvhost.sockets.listening import ListeningSocket
from fastvhost.sockets.socket_file import path_fault

BACKLOG = 8
FIRST_RETRY, LONGEST_RETRY = 0.1, 2.0


def check_path(path: str) -> None:
    """Raises ServiceError for a path no socket can have."""
    if fault := path_fault(path):
        raise ServiceError(f"{path!r}: {fault}")


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener(ListeningSocket):
    """A port's listening socket.

    Peers may send file descriptors before their connection is accepted; closing such files must not block.
    """

    def __init__(self, path: str, mode: int, group: str | None) -> None:
        check_path(path)
        gid = number_of(group)
        directory = os.path.dirname(path) or "."  # noqa: PTH120
        if not os.path.isdir(directory):  # noqa: PTH112
            raise ServiceError(f"{path}: no such directory; mkdir -p {directory}")
        try:
            super().__init__(path, mode, gid, BACKLOG)
        except OSError as error:
            remedy = "; is this user a member of the group?" if gid is not None and error.errno == errno.EPERM else ""
            raise ServiceError(f"{path}: cannot listen: {error.strerror}{remedy}", "os") from error

    def _hold(self, sock: socket.socket) -> None:
        foreign_files.keep([sock.fileno()])

    def _discard(self, sock: socket.socket) -> None:
        foreign_files.close_socket(sock)


class Dialer:
    """Connects, one attempt a call of dial(); tells when the next one is due, at growing intervals."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        check_path(path)
        self._path = path
        self._clock = clock
        self._wait = FIRST_RETRY
        self.due = clock()
        self.reason = ""

    def dial(self) -> socket.socket | None:
        """A connection, or None: then `due` is when to try again and `reason` why."""
        try:
            sock = _connect(self._path)
        except OSError as error:
            away = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            self.reason = "nobody listens there" if away else str(error.strerror)
            self._back_off()
            return None
        return sock

    def settled(self) -> None:
        """The connection serves a front-end: when it ends, the first retry is soon."""
        self._wait = FIRST_RETRY
        self.due = self._clock() + self._wait

    def lost(self) -> None:
        """The connection ended before it served a front-end."""
        self._back_off()

    def _back_off(self) -> None:
        # Jitter, so that the ports of one process do not connect at the same time.
        self.due = self._clock() + self._wait * random.uniform(0.8, 1.0)
        self._wait = min(LONGEST_RETRY, self._wait * 2)
