"""What of a configuration can be checked against this host without changing anything on it."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from fastvhost.control import host
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import UsageError

MAX_ID = 2**32 - 2
"""Of users and groups: the one beyond means "leave as it is" to the kernel."""


def check(settings: FwdConfig) -> None:
    """Raise UsageError at the first thing that cannot work."""
    _check_group(settings.socket_group, group_id(settings.socket_group))
    for port in settings.ports:
        if port.path:
            _check_socket(Path(port.path), listens=port.mode == "server")
    if settings.control:
        _check_socket(Path(settings.control), listens=True)


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


def _check_socket(path: Path, listens: bool) -> None:
    directory = path.parent
    try:
        there = directory.is_dir()
    except OSError as error:
        raise UsageError(
            f"{path}: {directory}: {error.strerror}; choose a directory this user may enter, or run as its owner"
        ) from None
    if not there:
        if not listens:
            return  # the peer makes it, later perhaps
        raise UsageError(f"{path}: there is no directory {directory}; make it with mkdir -p {directory}")
    if listens and not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(
            f"{path}: {directory} is not writable for this user; choose another directory or run as its owner"
        )
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path}: exists and is no socket; remove it or choose another path")
