"""The cores that threads of this process may use and do use, or wait for. A sandbox may forbid asking and changing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

ALLOW = "; allow the system call sched_setaffinity here (systemd: it is in @resources)"
_PROCESSOR = 36
"""The index of `processor` among the fields of /proc/PID/stat after the name, which may contain spaces. proc(5)"""


def allowed() -> frozenset[int]:
    """The cores that the calling thread may use; all cores where the kernel does not tell."""
    return of(0) or frozenset(range(os.cpu_count() or 1))


def of(thread: int) -> frozenset[int]:
    """The cores that a thread may use, 0: the calling one.

    Empty where the kernel does not tell or the thread has ended.
    """
    try:
        return frozenset(os.sched_getaffinity(thread))
    except OSError:
        return frozenset()


def pin(thread: int, cores: Iterable[int]) -> str:
    """Keep a thread, 0: the calling one, on these cores. Returns why that is not possible, or an empty text."""
    try:
        os.sched_setaffinity(thread, cores)
    except OSError as error:
        return f"{error.strerror}{ALLOW if error.errno in (errno.EPERM, errno.ENOSYS) else ''}"
    return ""


def last_core(thread: int | None = None) -> int | None:
    """The core that a thread of this process, None: the calling one, ran on last; None where /proc does not tell."""
    fields = _stat(thread)
    return int(fields[_PROCESSOR]) if len(fields) > _PROCESSOR else None


def waits(thread: int) -> bool:
    """Whether a thread of this process waits in the kernel now, or is held. False: it runs, or is ready to."""
    return _stat(thread)[:1] not in ([], ["R"])


def _stat(thread: int | None) -> list[str]:
    """The fields of a thread after its name; none where /proc does not tell."""
    # Not /proc/PID: in a pid namespace that sees the /proc of another one, that is another process.
    where = "/proc/thread-self" if thread is None else f"/proc/self/task/{thread}"
    try:
        return Path(where, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
