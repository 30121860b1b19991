"""Which cores threads of ours may use, and do use. A sandbox may forbid to ask or to change it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

ALLOW = "; allow the system call sched_setaffinity here (systemd: it is in @resources)"
_PROCESSOR = 36
"""Of the fields behind the name in /proc/PID/stat, which is the second one and may contain spaces. proc(5)"""


def allowed() -> frozenset[int]:
    """The cores of the calling thread; all there are where the kernel does not tell."""
    return of(0) or frozenset(range(os.cpu_count() or 1))


def of(thread: int) -> frozenset[int]:
    """The cores of a thread, 0 for the calling one; none where the kernel does not tell or the thread is gone."""
    try:
        return frozenset(os.sched_getaffinity(thread))
    except OSError:
        return frozenset()


def pin(thread: int, cores: Iterable[int]) -> str:
    """Have a thread, 0 for the calling one, run on these cores only. Returns why it cannot, or nothing."""
    try:
        os.sched_setaffinity(thread, cores)
    except OSError as error:
        return f"{error.strerror}{ALLOW if error.errno in (errno.EPERM, errno.ENOSYS) else ''}"
    return ""


def last_core(thread: int | None = None) -> int | None:
    """Where a thread of this process, None for the calling one, ran last; None where /proc does not tell."""
    # Not /proc/PID: in a pid namespace with the /proc of another one that is a stranger.
    where = "/proc/thread-self" if thread is None else f"/proc/self/task/{thread}"
    try:
        return int(Path(where, "stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
    except (OSError, ValueError, IndexError):
        return None
