"""Where control sockets live: one file per running fwd, in a directory that only their owner can write."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from fastvhost.sockets.socket_file import MAX_PATH_BYTES, PathTakenError, exposed
from fastvhost.sockets.socket_file import remove_stale as remove_stale_socket

PREFIX = "fwd-"
MACHINES_OWN = 0xEFFFFFFC
"""The number of the pid namespace that a machine starts with. linux/proc_ns.h, PROC_PID_INIT_INO"""


def candidates() -> Iterator[Path]:
    """Directories in the order they are tried: the session's, the system's, a private one among temporary files."""
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(session) / "fastvhost"
    yield Path("/run/fastvhost")
    # Not tempfile.gettempdir(): it makes a file in each place that it tries, also in the current directory. Callers
    # pass over a directory that does not exist or cannot be written.
    for place in filter(None, (os.environ.get("TMPDIR"), "/tmp")):
        yield Path(place).absolute() / f"fastvhost-{os.getuid()}"


def choose() -> Path:
    """The first directory that this user owns and can write, made where it is missing.

    Raises OSError where there is none.
    """
    reasons = []
    for directory in candidates():
        try:
            return own(directory)
        except OSError as error:
            reasons.append(f"{directory}: {error.strerror or error}")
    raise OSError("; ".join(reasons))


def own(directory: Path) -> Path:
    """Make it where it is missing. Raises OSError, saying why, where it cannot be this user's alone."""
    longest = len(os.fsencode(directory)) + len(f"/{_own_name()}")
    if longest > MAX_PATH_BYTES:
        raise OSError("the path is too long for a socket")
    # 0755 in /run, since the mode of the sockets (0660) says who may connect; 0700 elsewhere.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700 if _private(directory) else 0o755)
    _believe(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise OSError("not writable")
    return directory


def _private(directory: Path) -> bool:
    """Whether this user must own it. A directory in /run was made by root, who chose its owner."""
    return directory.parent != Path("/run")


def _believe(directory: Path) -> os.stat_result:
    """Raises OSError, saying why, where other users could have put sockets there. Links are not followed."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError("not a directory")
    if _private(directory):
        if found.st_uid != os.getuid():
            raise OSError(f"belongs to user {found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise OSError("others may write it")
    if place := exposed(os.fspath(directory)):
        raise OSError(f"others may replace files in {place}; chmod +t {place}")
    return found


def own_socket() -> Path:
    """The path for this process's control socket."""
    return choose() / _own_name()


def _own_name() -> str:
    """In a pid namespace, with more than the pid: containers may share the directory, and fwd is pid 1 in each."""
    pid = os.getpid()
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return f"{PREFIX}{pid}-{secrets.token_hex(4)}.sock"
    return f"{PREFIX}{pid}.sock" if namespace == MACHINES_OWN else f"{PREFIX}{pid}-{namespace}.sock"


def sockets() -> list[Path]:
    """All control sockets, also of killed processes, that this user may trust:

    its own, those of root, and those of the directory's owner.
    """
    found: list[Path] = []
    for directory in candidates():
        with contextlib.suppress(OSError):
            believed = {0, os.getuid(), _believe(directory).st_uid}
            found += [path for path in sorted(directory.glob(f"{PREFIX}*.sock")) if path.lstat().st_uid in believed]
    return list(dict.fromkeys(found))


def remove_stale() -> None:
    """Remove the sockets of processes that were killed, from directories of this user.

    Each socket is tried, since its pid says nothing: a process of another container that shares the directory has no
    pid here, or the same as another process.
    """
    for path in sockets():
        with contextlib.suppress(PathTakenError):
            remove_stale_socket(os.fspath(path))
