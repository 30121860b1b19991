"""The group that a socket's file is given to."""

from __future__ import annotations

import grp

from fastvhost.backend.errors import ServiceError

MOST = 2**32 - 2
"""The largest group number: to the kernel, the next one means "leave the group as it is"."""


class NoGroupError(ServiceError):
    """There is no such group here."""


def number_of(group: str | None) -> int | None:
    """The number of a group given by name or number; None for None. Raises NoGroupError."""
    if group is None:
        return None
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise NoGroupError(f"{group}: there is no such group; make it with groupadd {group}") from None
    if number > MOST:
        raise NoGroupError(f"{group}: no group has a number beyond {MOST}; see getent group")
    return number
