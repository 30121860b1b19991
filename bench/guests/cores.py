"""CPUs of processes: the forwarder's worker has the last core for itself, guests and peers share the others."""

from __future__ import annotations

import os

_ALLOWED = sorted(os.sched_getaffinity(0))
FWD_CORE = _ALLOWED[-1]
GUEST_CORES = _ALLOWED[:-1] or _ALLOWED


ANYWHERE = "FASTVHOST_GUESTS_ANYWHERE"
"""An environment variable that leaves guests unpinned: for tests, which measure nothing and run in parallel."""


def on_guest_cores(*command: str) -> list[str]:
    """The command line that runs a command away from the forwarder's worker."""
    if os.environ.get(ANYWHERE):
        return list(command)
    return ["taskset", "--cpu-list", ",".join(map(str, GUEST_CORES)), *command]
