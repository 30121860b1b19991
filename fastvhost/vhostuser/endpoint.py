"""The socket's path: where a port listens for its front-end, or connects to one. Connections come out of both."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import random
import socket
import stat
import time
from collections.abc import Callable

from fastvhost.frontend.errors import ServiceError

MAX_PATH_BYTES = 107
"""sockaddr_un has 108, the last is 0."""
BACKLOG = 8
FIRST_RETRY, LAST_RETRY = 0.1, 2.0


def check_path(path: str) -> None:
    """Raises ServiceError for a path no socket can have."""
    length = len(os.fsencode(path))
    if not path or "\0" in path:
        raise ServiceError(f"{path!r}: no path for a socket; give a file name such as /tmp/a.sock")
    if length > MAX_PATH_BYTES:
        raise ServiceError(
            f"{path}: {length} bytes, a socket's path has at most {MAX_PATH_BYTES}; choose a shorter directory"
        )


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """A listening socket and its file, which is removed when it is still ours."""

    def __init__(self, path: str, mode: int, group: str | None) -> None:
        check_path(path)
        gid = _group(group)
        directory = os.path.dirname(path) or "."  # noqa: PTH120
        if not os.path.isdir(directory):  # noqa: PTH112
            raise ServiceError(f"{path}: no such directory; mkdir -p {directory}")
        _remove_stale(path)
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._identity: tuple[int, int] | None = None
        try:
            self._sock.bind(path)
            info = os.lstat(path)
            self._identity = info.st_dev, info.st_ino
            # Nobody can connect before listen(), so its permissions are right from the first connection on.
            os.chmod(path, mode)  # noqa: PTH101
            if gid is not None:
                os.chown(path, -1, gid)
            self._sock.listen(BACKLOG)
        except OSError as error:
            self.close()
            remedy = "" if gid is None else "; is this user a member of the group?"
            raise ServiceError(f"{path}: cannot listen: {error.strerror}{remedy}", "os") from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> socket.socket | None:
        """The next connection, or None. Raises OSError when the process or the system has no room for one."""
        try:
            return self._sock.accept()[0]
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return None

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()
        if self._identity is not None:
            with contextlib.suppress(OSError):
                info = os.lstat(self._path)
                if (info.st_dev, info.st_ino) == self._identity:
                    os.unlink(self._path)  # noqa: PTH108
            self._identity = None


class Dialer:
    """Connects, and tries again for ever, less often the longer it takes."""

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
        """The peer turned out to be one: after this connection, try again at once."""
        self._wait = FIRST_RETRY
        self.due = self._clock() + self._wait

    def lost(self) -> None:
        """The connection ended before it came to anything."""
        self._back_off()

    def _back_off(self) -> None:
        # Jitter, so that the ports of one process do not knock in step.
        self.due = self._clock() + self._wait * random.uniform(0.8, 1.0)
        self._wait = min(LAST_RETRY, self._wait * 2)


def _group(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ServiceError(f"no group {group!r} on this machine; see `getent group`") from None


def _remove_stale(path: str) -> None:
    """Remove a socket nobody answers on; raise ServiceError for anything else that is in the way."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ServiceError(f"{path}: {error.strerror}", "os") from error
    if not stat.S_ISSOCK(info.st_mode):
        raise ServiceError(f"{path}: exists and is no socket; move it away or choose another path")
    try:
        _connect(path).close()
    except ConnectionRefusedError:
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ServiceError(f"{path}: a stale socket that cannot be removed: {error.strerror}", "os") from error
        return
    except FileNotFoundError:
        return
    except BlockingIOError:
        pass
    except OSError as error:
        raise ServiceError(f"{path}: exists, cannot be tried: {error.strerror}; remove it if stale", "os") from error
    raise ServiceError(f"{path}: another process answers on it; stop that one or choose another path")
