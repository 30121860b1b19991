"""The file of a listening socket: whether its path is free, and taking one's own file away again, nobody else's."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from fastvhost.frontend.errors import ServiceError

MAX_PATH_BYTES = 107
"""sockaddr_un has 108, the last is 0."""


class PathTakenError(ServiceError):
    """Something that must stay is where a socket was wanted."""


class PathInUseError(PathTakenError):
    """A process answers there: it may be the one that is to be replaced."""


def is_there(path: str, elsewhere: str = "choose another path") -> bool:
    """Whether a socket's file is there. Raises PathTakenError where it is another kind of file.

    elsewhere: the remedy that is always there.
    """
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PathTakenError(f"{path}: cannot be looked at: {error.strerror}; {elsewhere}", "os") from error
    raise PathTakenError(f"{path}: exists and is no socket; remove it or {elsewhere}")


def is_stale(path: str, elsewhere: str = "choose another path") -> bool:
    """Whether a socket is there that no process has any more; False where nothing is. Else raises PathTakenError."""
    try:
        if not is_there(path, elsewhere):
            return False
        if not _has_an_owner(path):
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PathTakenError(f"{path}: cannot be tried: {error.strerror}; remove it or {elsewhere}", "os") from error
    raise PathInUseError(f"{path}: another process answers on it; stop that one or {elsewhere}")


def remove_stale(path: str, elsewhere: str = "choose another path") -> None:
    """Make room for a socket. Raises PathTakenError where is_stale() does, or where the file cannot be removed."""
    if is_stale(path, elsewhere):
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            pass
        except OSError as error:
            raise PathTakenError(
                f"{path}: a stale socket that cannot be removed: {error.strerror}; remove it or {elsewhere}", "os"
            ) from error


def _has_an_owner(path: str) -> bool:
    """Asked by a datagram socket: the kernel tells it that the one there is of another type, and that one nothing.

    Unlike a connection this disturbs nobody, minds no full queue, and sees a socket that is bound and about to listen.
    /proc/net/unix would not do: it has paths as they were given, relative ones too, and of one network namespace only.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    return True


class OwnFile:
    """The file that bind() has just made. Removed while the socket is open, whose inode then is no other file's."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = _inode(path)

    def remove(self) -> None:
        """Unless another file has its path by now."""
        with contextlib.suppress(OSError):
            if _inode(self._path) == self._inode:
                os.unlink(self._path)  # noqa: PTH108


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
