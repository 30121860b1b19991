"""How long something takes, without the time in which other work here, or the host, kept it from a CPU."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

STOLEN = 8
"""Index in the first line of /proc/stat: time that the host of this virtual machine took. proc(5)"""


def schedstat(process: Path, field: int) -> dict[str, float]:
    """Seconds by thread: 0 on a CPU, 1 waiting for one. Linux, Documentation/scheduler/sched-stats.rst."""
    found = {}
    with contextlib.suppress(FileNotFoundError):  # the process ended
        for task in (process / "task").iterdir():
            with contextlib.suppress(OSError):  # it ended
                found[task.name] = int((task / "schedstat").read_text().split()[field]) / 1e9
    return found


def waited_seconds(process: Path) -> float:
    """Seconds in which threads of a process were ready to run but had no CPU."""
    return sum(schedstat(process, 1).values())


def stolen_seconds() -> float:
    """Seconds in which the host did not run this virtual machine's CPUs, all of them together."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()
    return int(words[STOLEN]) / os.sysconf("SC_CLK_TCK")


class OwnTime:
    """A clock that starts now. pids: processes whose waits for a CPU are subtracted, beside those of this one."""

    def __init__(self, *pids: int) -> None:
        self._processes = [Path("/proc/self"), *(Path(f"/proc/{pid}") for pid in pids)]
        self._without = self._before = self._without_cpu()
        self._start = time.monotonic()

    def _without_cpu(self) -> float:
        return stolen_seconds() + sum(map(waited_seconds, self._processes))

    @property
    def seconds(self) -> float:
        """Seconds so far. The wait of a thread that has ended is the one of the look before."""
        self._without = max(self._without, self._without_cpu())
        return time.monotonic() - self._start - (self._without - self._before)
