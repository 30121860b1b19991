"""Checks a configuration against this host without changing anything on it."""

from __future__ import annotations

import os
from pathlib import Path

from fastvhost.control import host, metrics_address, socket_place
from fastvhost.control.config import FwdConfig
from fastvhost.control.control_socket import ELSEWHERE
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.sockets.group import NoGroupError, number_of


def check(settings: FwdConfig) -> None:
    """Check before a start. Raises UsageError for the first thing that cannot work."""
    for said in check_for_later(settings):
        raise UsageError(said)


def check_for_later(settings: FwdConfig) -> tuple[str, ...]:
    """The same for a later start: returns the paths that another process uses now, which may be free by then."""
    if fault := host.proc_fault():
        raise RuntimeFailure(fault)
    for option, group in (("socket-group", settings.socket_group), ("control-group", settings.control_group)):
        _check_group(option, group, group_id(group, option))
    said = tuple(said for port in settings.ports for said in port.kind.check_host(port))
    if settings.control:
        said += socket_place.check(Path(settings.control), True, ELSEWHERE)
    if settings.metrics and settings.metrics.path:
        said += socket_place.check(Path(settings.metrics.path), True, metrics_address.ELSEWHERE)
    return said


def group_id(group: str | None, option: str = "socket-group") -> int:
    """The number of a group given by name or number, -1 for none."""
    try:
        number = number_of(group)
    except NoGroupError as error:
        raise UsageError(f"--{option} {error}") from None
    return -1 if number is None else number


def _check_group(option: str, name: str | None, number: int) -> None:
    """A user can give a file to a group of which it is a member; CAP_CHOWN allows any group. chown(2)"""
    if number in (-1, os.getegid(), *os.getgroups()) or host.has_capability(host.CAP_CHOWN):
        return
    user = os.geteuid()
    raise UsageError(
        f"--{option} {name}: user {user} is no member of it; add it (usermod -aG {name} USER, then log in again), "
        "or run as root"
    )
