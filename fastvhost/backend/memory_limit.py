"""How much memory this process may use: the smallest limit of the control groups it is in. cgroups(7)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def own_limit(root: Path = ROOT, groups: Path = Path("/proc/self/cgroup")) -> int | None:
    """The limit in bytes; None where there is none below this machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    limits = [machine]
    with contextlib.suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                top, name = (root, "memory.max") if controllers == "" else (root / "memory", "memory.limit_in_bytes")
                group = top / path.strip("/")
                limits += [limit for one in (group, *group.parents) if (limit := _limit(one / name)) is not None]
    return None if min(limits) == machine else min(limits)


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max", or no such group here
        return None
