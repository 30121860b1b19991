"""Network namespaces other than that of fwd: how one is found, and how something is opened in it.

network_namespaces(7). A thread that enters one may not be able to come back. So a thread of its own enters it, opens
what is needed and ends. A socket belongs to the namespace that it was opened in, whichever thread uses it, and keeps
that namespace alive while it is open.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from fastvhost.dataplane.threads import Thread
from fastvhost.hostside.errors import HostPortError

NAMED: Final = Path("/var/run/netns")
"""The directory in which ip-netns(8) keeps namespaces by name."""
CLONE_NEWNET: Final = 0x40000000
NS_GET_NSTYPE: Final = 0xB703
RIGHTS: Final = "run as root, or with AmbientCapabilities=CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW"
GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
_libc = ctypes.CDLL(None, use_errno=True)

Identity = tuple[int, int]
"""Device and inode of a namespace. namespaces(7)."""
Given = TypeVar("Given")


def problem(text: str) -> str:
    """Why this text cannot name a network namespace; or an empty text."""
    if text.startswith("/"):
        return "a path must have no NUL in it" if "\0" in text else ""
    if text in ("", ".", "..") or any(c == "/" or c.isspace() or not c.isprintable() for c in text):
        return "neither a name of ip netns, nor the id of a process, nor a path that begins with /"
    return ""


class Namespace:
    """A network namespace, kept alive by an open descriptor."""

    def __init__(self, fd: int, words: str = "") -> None:
        """Takes ownership of fd.

        words: its name in messages; empty: the name that ip-netns(8) has for it, or its number.
        """
        self._fd = fd
        self.identity = identity_of(fd)
        self.name = "" if words else name_of(self.identity)
        self.words = words or f"network namespace {self.name or f'{self.identity[1]} (see lsns -t net)'}"

    def run(self, act: Callable[[], Given]) -> Given:
        """Call `act` in this namespace, and return or raise what it does.

        Raises HostPortError where it cannot be entered.
        """
        answer: Future[Given] = Future()

        def enter() -> None:
            try:
                if _libc.setns(self._fd, CLONE_NEWNET):
                    raise HostPortError(_refusal(self.words, ctypes.get_errno()))
                answer.set_result(act())
            except BaseException as error:
                answer.set_exception(error)

        try:
            Thread(target=enter, name="netns", daemon=True).start()
        except RuntimeError as error:
            raise HostPortError(f"{self.words}: {error}; raise TasksMax= in the unit, or ulimit -u") from error
        return answer.result()

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Wanted:
    """The namespace that netns= names: of ip-netns(8), of a process, or a file at a path.

    A number is a process id, as for ip-link(8). It means the process that has this id when the object is made, not one
    that gets the same id later. words: its name in messages. prefix: what precedes a command that is to run there.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.pid = int(text) if text.isascii() and text.isdecimal() else 0
        self._path = text if text.startswith("/") else os.fspath(NAMED / text)
        self.words, self.prefix = f"network namespace {text}", f"nsenter --net={text} "
        if self.pid:
            self._path = f"/proc/{self.pid}/ns/net"
            self.words, self.prefix = f"the network namespace of process {self.pid}", f"nsenter -t {self.pid} -n "
        elif not text.startswith("/"):
            self.prefix = f"ip netns exec {text} "
        self._started = _started(self.pid) if self.pid else None

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or there was none: then waiting is of no use."""
        return bool(self.pid) and (self._started is None or _started(self.pid) != self._started)

    @property
    def missing(self) -> str:
        """Why the namespace is not there, as a message."""
        if self.pid and self._started is None:
            return f"netns={self.text}: there is no such process; give the id of one that runs, or a name of ip netns"
        if self.pid:
            return f"netns={self.text}: that process is gone; start fwd anew, with the id of another one"
        return f"there is no {self.words}; waiting for it"

    def left(self, now: Identity | None) -> str:
        """Why the namespace found before is no longer the wanted one. now: the one at the same place now, or None."""
        if self.pid:
            return f"process {self.pid} {'entered another network namespace' if now else 'ended'}"
        return f"{self.words} was {'made anew' if now else 'removed'}"

    def identity(self) -> Identity | None:
        """The identity of the file at its path, a namespace or not. None: there is no file, or the process has ended.

        Raises HostPortError where the file cannot be looked at.
        """
        if self.ended:
            return None
        try:
            return identity_of(self._path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise self._unseen(error) from error

    def open(self) -> Namespace | None:
        """None while it is not there, or is a file that no namespace was mounted on yet. Raises HostPortError."""
        if self.ended:
            return None
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise self._unseen(error) from error
        if not _is_network(fd) or self.ended:
            os.close(fd)
            return None
        return Namespace(fd, self.words)

    def _unseen(self, error: OSError) -> HostPortError:
        remedy = f"look at {self._path}"
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = "run as root"
            if self.pid:
                remedy += f", or give it a name: ip netns attach NAME {self.pid}"
        return HostPortError(f"netns={self.text}: {error.strerror}; {remedy}")

    def __str__(self) -> str:
        return self.text


def identity_of(file: int | str) -> Identity:
    """The identity of an open namespace, or of the file at a path. Raises OSError."""
    found = os.stat(file)  # noqa: PTH116
    return found.st_dev, found.st_ino


def own_identity() -> Identity:
    """The identity of the calling thread's namespace. Raises OSError."""
    return identity_of("/proc/thread-self/ns/net")


def name_of(identity: Identity) -> str:
    """The name that ip-netns(8) has for it, or empty."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(NAMED):
            with contextlib.suppress(OSError):
                found = entry.stat()
                if (found.st_dev, found.st_ino) == identity:
                    return entry.name
    return ""


def _is_network(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where it does not run. proc_pid_stat(5)."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if state in (b"Z", b"X") else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


def _refusal(words: str, number: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        return f"{words}: not permitted to enter it (CAP_SYS_ADMIN); {RIGHTS}"
    return f"{words}: cannot be entered: {os.strerror(number)}"
