"""How many files this process may have open, and how many its ports need. With too few, all ports suffer."""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING

from fastvhost.backend.foreign_files import MOST_CARRIED
from fastvhost.control.errors import RuntimeFailure

if TYPE_CHECKING:
    from fastvhost.control.config import FwdConfig

PER_RING = 3
"""Kick, call and err."""
PER_PORT = 16
"""Of one port: its listener, its thread's eventfd, a connection, messages being handled, and memory regions."""
RESERVE = 64 + MOST_CARRIED
"""Files that workers, log, control socket and its clients use beside the ports, and as many as one message may bring.

A descriptor that finds no room is closed by the kernel in the thread that receives it, and its sender can make that
wait. (Where several ports receive at the same moment, they use what is reserved for rings that do not run.)
"""
LEAST_RESERVE = 32
ALLOW = "allow prlimit64, or give fwd enough of them: LimitNOFILE= in the unit, or ulimit -n"
RAISE = "raise the hard limit: LimitNOFILE= in the unit, or ulimit -Hn as root"


def raise_limit() -> int | None:
    """Raise the soft limit to the hard one. Returns the limit; None where a sandbox forbids asking.

    Systems keep the soft limit low (1024) for programs that use select(2), which fwd does not.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def wanted(settings: FwdConfig) -> int:
    """Files that are enough for all rings of all ports, with the reserve."""
    return RESERVE + sum(PER_PORT + 2 * port.queues * PER_RING for port in settings.ports)


def least(settings: FwdConfig) -> int:
    """Files that are enough for one queue pair a port."""
    return LEAST_RESERVE + sum(PER_PORT for _ in settings.ports)


def check(settings: FwdConfig, limit: int | None) -> tuple[str, ...]:
    """Returns warnings. Raises RuntimeFailure where the limit is below least(). limit: None where it is not known."""
    if limit is None:
        return (f"how many open files are allowed is not known here, and cannot be raised; {ALLOW}",)
    ports = f"these {len(settings.ports)} ports need"
    if limit < least(settings):
        raise RuntimeFailure(f"{limit} open files are allowed, {ports} {least(settings)} at least; {RAISE}")
    if limit < wanted(settings):
        return (f"{limit} open files are allowed, {ports} {wanted(settings)} once guests use all queues; {RAISE}",)
    return ()


def ran_out(error: BaseException | None) -> bool:
    """Whether an error, or the one it came from, says that no more files can be opened."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False
