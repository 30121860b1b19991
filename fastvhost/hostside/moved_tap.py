"""Finds a tap that was renamed, or moved to another network namespace, by its descriptor. tuntap.rst.

No file of that namespace is kept open, so that it can end with its last process, and the tap with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Final

from fastvhost.hostside import interfaces
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.interfaces import Interface
from fastvhost.hostside.namespaces import Identity, Namespace, identity_of, own_identity

TUNGETIFF: Final = 0x800454D2
TUNGETDEVNETNS: Final = 0x54E3
IFREQ_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class Away:
    """A tap that was moved to another namespace."""

    words: str
    """The name of the namespace in messages."""
    label: str
    """Its name or number."""
    prefix: str
    """The words before a command that is to run there; empty where they are not known."""
    mac: str
    seen: Interface | None = None
    """None where fwd may not look there."""
    dropped: int = 0
    """See interfaces.dropped_by_kernel()."""


def name(fd: int) -> str:
    """The name that the tap of this descriptor has now. Raises OSError, with EBADFD when it was removed."""
    found = fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ_BYTES))
    return os.fsdecode(found[:16].partition(b"\0")[0])


def look(fd: int, called: str, home: Identity | None, at_home: Interface | None) -> Away | None:
    """Where the tap is now; None: in the namespace that it belongs to.

    home: that namespace, None for this thread's. called: the name of the tap now. at_home: the interface of that name
    there. Raises OSError, with EBADFD when the tap was removed.
    """
    mac = interfaces.text_of_mac(fcntl.ioctl(fd, interfaces.SIOCGIFHWADDR, bytes(IFREQ_BYTES)))
    there = _namespace(fd)
    if there is None:
        if at_home is not None and at_home.mac == mac:
            return None
        return Away("another network namespace", "another one", "", mac)
    try:
        if identity_of(there) == (own_identity() if home is None else home):
            return None
        space = Namespace(os.dup(there))
    finally:
        os.close(there)
    try:
        seen, dropped = _look_in(space, called)
    finally:
        space.close()
    prefix = f"ip netns exec {space.name} " if space.name else ""
    return Away(space.words, space.name or str(space.identity[1]), prefix, mac, seen, dropped)


def _namespace(fd: int) -> int | None:
    """A file descriptor of its namespace; None where the kernel refuses: it takes CAP_NET_ADMIN and Linux 5.4."""
    try:
        return fcntl.ioctl(fd, TUNGETDEVNETNS)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTTY):
            return None
        raise


def _look_in(there: Namespace, called: str) -> tuple[Interface | None, int]:
    try:
        return there.run(lambda: (interfaces.look(called), interfaces.dropped_by_kernel(called)))
    except HostPortError:
        return None, 0
