"""Programs of Debian testing beside this machine's (scripts/newest-peers), with libraries of their own."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "newest-peers"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


@functools.cache
def newest(peer: str, seconds: float = 280) -> Path:
    """The folder of a program with its loader and libraries; fetched when it is not in the cache."""
    answer = subprocess.run([SCRIPT, peer], stdout=subprocess.PIPE, text=True, check=True, timeout=seconds)
    return Path(answer.stdout.split()[2])


def program(peer: str, path: str, seconds: float = 280) -> list[str]:
    """The words that run a program of a peer."""
    root = newest(peer, seconds)
    return ["env", f"LD_LIBRARY_PATH={root / LIBRARIES}", str(root / path)]
