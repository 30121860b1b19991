"""What of a configuration can be checked against this host without changing anything on it."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import UsageError


def check(settings: FwdConfig) -> None:
    """Raise UsageError at the first thing that cannot work."""
    group_id(settings.socket_group)
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
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--socket-group {group}: there is no such group; make it with groupadd {group}") from None


def _check_socket(path: Path, listens: bool) -> None:
    directory = path.parent
    if not directory.is_dir():
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
