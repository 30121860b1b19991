"""The file of a listening socket: whether its path is free, its mode and group, and removing it again.

Between two system calls with the same path somebody else may put another file there, or a link. So nothing here changes
a file by its path: mode and group are set on a descriptor of the file, and links are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from pathlib import Path

from fastvhost.backend.errors import ServiceError

MAX_PATH_BYTES = 107
"""sockaddr_un has 108, the last is 0."""


class PathTakenError(ServiceError):
    """The path has a file that must not be removed."""


class PathInUseError(PathTakenError):
    """A process listens there: perhaps the one that is to be replaced."""


def path_fault(path: str) -> str:
    """Why no socket can have this path, with the remedy; or empty."""
    if not path or "\0" in path:
        return "no path; write the path of the socket"
    if (length := len(os.fsencode(path))) > MAX_PATH_BYTES:
        return (
            f"the path has {length} bytes and a socket's may have {MAX_PATH_BYTES}; "
            "use a shorter directory, or start in it and give a relative path"
        )
    return ""


def is_there(path: str, elsewhere: str = "choose another path") -> bool:
    """Whether a socket's file is there. Raises PathTakenError where it is another kind of file.

    elsewhere: a remedy that the error names in any case.
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
    """Whether the path has a socket that no process uses; False where it has no file. Else raises PathTakenError."""
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


def exposed(directory: str) -> str:
    """The directory, or the one above it, in which other users may replace this user's files; or empty.

    In a sticky directory only the owner of a file, or of the directory, may replace it. inode(7), S_ISVTX
    Raises OSError.
    """
    place = Path(os.path.realpath(directory))
    for one in (place, *place.parents):
        found = os.stat(one)  # noqa: PTH116
        if found.st_mode & stat.S_ISVTX or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            continue
        if found.st_mode & stat.S_IWOTH or not _ours_alone(found.st_gid):
            return str(one)
    return ""


def check_directory(path: str, elsewhere: str = "choose another path") -> None:
    """Raises PathTakenError where others could replace the socket by their own, to which peers would then connect."""
    directory = os.path.dirname(path) or "."  # noqa: PTH120
    try:
        place = exposed(directory)
    except OSError as error:
        raise PathTakenError(f"{path}: {directory}: {error.strerror}; {elsewhere}", "os") from error
    if place:
        mode = stat.S_IMODE(os.stat(place).st_mode)  # noqa: PTH116
        raise PathTakenError(
            f"{path}: other users may replace files in {place} (mode {mode:04o}), and so this socket; as its owner: "
            f"chmod +t {place}, or {elsewhere}"
        )


def _ours_alone(gid: int) -> bool:
    """Whether nobody else is in a group: many systems give each user a group of its own, and umask 0002."""
    ours = {"root"}
    with contextlib.suppress(KeyError):
        ours.add(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False
    return members | {user.pw_name for user in pwd.getpwall() if user.pw_gid == gid} <= ours


def _has_an_owner(path: str) -> bool:
    """Whether a process has a socket there. A datagram socket tries to connect: the kernel says that the type differs.

    The listener notices nothing, its queue may be full, and it may be bound without listening yet. /proc/net/unix would
    not do: it has paths as they were given, relative ones too, and those of one network namespace only.
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


def bind(listener: socket.socket, path: str, mode: int, gid: int | None = None) -> OwnFile:
    """Bind a socket that does not listen yet to a file of this mode and group. Raises OSError, and then leaves no file.

    gid: None keeps the group that a new file has.
    """
    # The file gets the socket's mode, less the umask: so it never has more rights than asked for.
    os.fchmod(listener.fileno(), mode)
    listener.bind(path)
    file = None
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
                raise OSError(errno.ESTALE, "another file has its place already; use a directory of its own")
            file = OwnFile(path, (found.st_dev, found.st_ino))
            itself = f"/proc/self/fd/{fd}"
            if gid is not None and gid != found.st_gid:
                os.chown(itself, -1, gid)
            if stat.S_IMODE(found.st_mode) != mode:
                os.chmod(itself, mode)  # noqa: PTH101
        finally:
            os.close(fd)
    except BaseException:
        if file is not None:
            file.remove()
        raise
    return file


class OwnFile:
    """The file that bind() made. To be removed while the socket is open: until then no other file has its inode."""

    def __init__(self, path: str, inode: tuple[int, int]) -> None:
        self._path = path
        self._inode = inode

    def is_there(self) -> bool:
        """False where the path has another file now. Raises OSError; FileNotFoundError where it has none."""
        return _inode(self._path) == self._inode

    def remove(self) -> None:
        """Remove the file, unless the path has another one now."""
        with contextlib.suppress(OSError):
            if self.is_there():
                os.unlink(self._path)  # noqa: PTH108


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
