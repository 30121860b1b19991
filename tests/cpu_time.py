"""How much of a core a process uses, to the nanosecond: ticks are too coarse for one that hardly runs."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Of all its threads that are still there."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cpu_share(pid: int, seconds: float, turns: int = 3) -> float:
    """The median share of a core over so many turns of so many seconds."""
    shares = []
    for _ in range(turns):
        before, start = cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        shares.append((cpu_seconds(pid) - before) / (time.monotonic() - start))
    return statistics.median(shares)
