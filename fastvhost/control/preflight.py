"""What of a configuration can be checked against this host without changing anything on it."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from fastvhost.control import host
from fastvhost.control.config import FwdConfig
from fastvhost.control.control_socket import ELSEWHERE
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.dataplane.threads import Thread
from fastvhost.vhostuser import socket_file

ANSWER_SECONDS = 2.0
"""How long a file system has to answer about a capture file."""
MAX_ID = 2**32 - 2
"""Of users and groups: the one beyond means "leave as it is" to the kernel."""


def check(settings: FwdConfig) -> None:
    """Before a start: raise UsageError at the first thing that cannot work."""
    for said in check_for_later(settings):
        raise UsageError(said)


def check_for_later(settings: FwdConfig) -> tuple[str, ...]:
    """The same beside whatever runs now: returns the paths that another process has, which may be gone by then."""
    if fault := host.proc_fault():
        raise RuntimeFailure(fault)
    _check_group(settings.socket_group, group_id(settings.socket_group))
    for port in settings.ports:
        for check_file, path in ((_check_played, port.option("in")), (_check_recorded, port.option("out"))):
            if path:
                _in_time(path, check_file)
    sockets = [(Path(port.path), port.mode == "server", "choose another path") for port in settings.ports if port.path]
    if settings.control:
        sockets.append((Path(settings.control), True, ELSEWHERE))
    return tuple(said for socket in sockets if (said := _check_socket(*socket)))


def group_id(group: str | None) -> int:
    """The number of a group given by name or number, -1 for none."""
    if group is None:
        return -1
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--socket-group {group}: there is no such group; make it with groupadd {group}") from None
    if number > MAX_ID:
        raise UsageError(f"--socket-group {group}: no group has a number beyond {MAX_ID}; see getent group")
    return number


def _check_group(name: str | None, number: int) -> None:
    """A file can be given to a group of one's own, or by the right to give it to any. chown(2)"""
    if number in (-1, os.getegid(), *os.getgroups()) or host.has_capability(host.CAP_CHOWN):
        return
    user = os.geteuid()
    raise UsageError(
        f"--socket-group {name}: user {user} is no member of it; add it (usermod -aG {name} USER, then log in again), "
        "or run as root"
    )


def _in_time(path: str, check_file: Callable[[str], None]) -> None:
    """In a thread that can be left behind: the file server of a path may not answer for ever."""
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            check_file(path)
            answer.set_result(None)
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=ask, name="preflight", daemon=True).start()
    try:
        answer.result(ANSWER_SECONDS)
    except TimeoutError:
        raise RuntimeFailure(
            f"pcap-file {path}: its file system does not answer; mount it anew, or give a file elsewhere"
        ) from None


def _check_played(path: str) -> None:
    """A capture file. A pipe belongs to whoever writes to it, and is not to be opened twice."""
    try:
        if stat.S_ISREG(Path(path).stat().st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(f"pcap-file {path}: {error.strerror}; give a capture file that can be read") from None


def _check_recorded(path: str) -> None:
    """A file to be made, or to be emptied when it is started with."""
    fault = host.directory_fault(Path(path).parent)
    try:
        if stat.S_ISREG(Path(path).stat().st_mode):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        fault = ""
    except FileNotFoundError:
        pass
    except OSError as error:
        fault = error.strerror or str(error)
    if fault:
        raise UsageError(f"pcap-file {path}: {fault}; give a place that can be written")


def _check_socket(path: Path, listens: bool, elsewhere: str) -> str:
    """What is in its way at the moment: another process, maybe the one whose place the next start is to take."""
    directory = path.parent
    fault = host.directory_fault(directory)
    # A directory that is not there is made by whoever listens in it, later perhaps.
    if fault and (listens or fault not in (host.MISSING, host.READ_ONLY)):
        remedy = {
            host.MISSING: f"make it with mkdir -p {directory}",
            host.READ_ONLY: "choose another directory, or run as its owner",
        }.get(fault, "choose a directory that this user may enter, or run as its owner")
        raise UsageError(f"{path}: {directory}: {fault}; {remedy}")
    look = socket_file.is_stale if listens else socket_file.is_there
    try:
        if listens:
            socket_file.check_directory(str(path), elsewhere)
        look(str(path), elsewhere)
    except socket_file.PathInUseError as error:
        return str(error)
    except socket_file.PathTakenError as error:
        raise UsageError(str(error)) from None
    return ""
