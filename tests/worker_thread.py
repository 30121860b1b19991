"""The workers of a fwd as its kernel threads, and the CPUs that they leave to others. proc(5)"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def workers(pid: int) -> list[Path]:
    """The folders of its worker threads."""
    return [task for task in Path(f"/proc/{pid}/task").iterdir() if _name(task).startswith("fv-worker")]


def only_worker(pid: int) -> Path:
    (found,) = workers(pid)
    return found


def other_core(pid: int) -> int | None:
    """A CPU that none of its workers is pinned to, and that we may use; None where there is none."""
    taken = {core for task in workers(pid) for core in os.sched_getaffinity(int(task.name))}
    return max(os.sched_getaffinity(0) - taken, default=None)


@contextlib.contextmanager
def kept_on(core: int | None) -> Iterator[None]:
    """This thread, and what it starts, stay on this CPU. None: they run where they may."""
    allowed = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it ended
        return ""
