"""A listening socket and its file, which is made again where somebody removed it. unix(7)

A socket whose file is gone goes on listening, but nobody can connect to it. Cleaners of old files (systemd-tmpfiles)
remove a file that has been there for days. So its owner checks now and then that it is there.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import weakref

from fastvhost.sockets import socket_file
from fastvhost.sockets.socket_file import PathTakenError

LOOK_SECONDS = 5.0
LOOKS_A_SECOND = 10.0
"""Of all sockets of this process together, where they are many: each of them wakes a thread."""


class ListeningSocket:
    """Listens from the constructor on. One thread uses it; withdraw() may come from any other."""

    def __init__(
        self, path: str, mode: int, gid: int | None, backlog: int, *, elsewhere: str = "choose another path"
    ) -> None:
        """Raises OSError, and PathTakenError where something that must stay has the path. A stale socket is removed."""
        self._path = path
        self._mode = mode
        self._gid = gid
        self._backlog = backlog
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        """Held while the file is made or removed, so that none is made after withdraw()."""
        self.withdrawn = False
        self._lost = False
        self._looked: float | None = None
        self._said = ""
        socket_file.check_directory(path, elsewhere)
        socket_file.remove_stale(path, elsewhere)
        self._sock, self._file = self._made()
        _open.add(self)

    def _made(self) -> tuple[socket.socket, socket_file.OwnFile]:
        file = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            file = socket_file.bind(sock, self._path, self._mode, self._gid)
            sock.listen(self._backlog)
            self._hold(sock)
        except BaseException:
            if file is not None:
                file.remove()
            sock.close()
            raise
        return sock, file

    def _hold(self, sock: socket.socket) -> None:
        """Called for each new socket."""

    def _discard(self, sock: socket.socket) -> None:
        """Close a socket that is used no more. Idempotent."""
        sock.close()

    def _prepare(self) -> None:
        """Called before the file is made again, to make its directory, for example. May raise OSError."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> socket.socket | None:
        """The next connection, or None. Raises OSError when the process or the system has no room for one."""
        if self.withdrawn:
            return None
        try:
            return self._sock.accept()[0]
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return None

    @property
    def look_at(self) -> float | None:
        """When look() is to be called next, on the clock of its `now`; None: never again."""
        if self.withdrawn or self._lost or self._looked is None:
            return None
        return self._looked + max(LOOK_SECONDS, len(_open) / LOOKS_A_SECOND)

    def look(self, now: float) -> str:
        """Check that the file is still there. Returns a text for the log, mostly empty.

        A file that is gone is made again. A file that somebody else put there stays.
        """
        if self._looked is None:  # it has just been made
            self._looked = now
        if self.look_at is None or now < self.look_at:
            return ""
        self._looked = now
        with self._lock:
            said = "" if self.withdrawn else self._mend()
        if said == self._said:
            return ""
        self._said = said
        return said

    def _mend(self) -> str:
        """With the lock held."""
        try:
            if self._file.is_there():
                return ""
        except FileNotFoundError:
            pass
        except OSError:  # the file cannot be looked at: try again later
            return ""
        else:
            return self._lose()
        removed = f"the socket's file {self._path} was removed, by a cleaner of old files perhaps"
        try:
            self._prepare()
            socket_file.check_directory(self._path, self._elsewhere)
            sock, file = self._made()
        except (OSError, PathTakenError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                return self._lose()
            reason = error.strerror if isinstance(error, OSError) else error
            return f"{removed}, and cannot be made again: {reason}; trying on"
        old, self._sock, self._file = self._sock, sock, file
        self._discard(old)
        return f"{removed}, and is made again; a RuntimeDirectory= in /run is safe from those"

    def _lose(self) -> str:
        self._lost = True
        return (
            f"somebody removed the socket's file {self._path} and made another one there, which is left alone: nobody "
            f"reaches this one any more; start fwd again when the other is gone, or {self._elsewhere}"
        )

    @property
    def lost(self) -> bool:
        """Whether somebody else's file has the path now."""
        return self._lost

    def withdraw(self) -> None:
        """Remove the file and take no more connections. From any thread: the descriptor stays open until close()."""
        with self._lock:
            if not self.withdrawn:
                self.withdrawn = True
                self._file.remove()
            with contextlib.suppress(OSError):
                # Peers that connect from now on are refused, as by a closed listener. unix(7)
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        self.withdraw()
        self._discard(self._sock)
        _open.discard(self)


_open: weakref.WeakSet[ListeningSocket] = weakref.WeakSet()
"""All sockets of this process that are not closed."""
