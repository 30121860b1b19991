"""What it costs that a cache line crosses from one CPU to the other: most of the cost of a small frame.

It is the host's doing. A virtual machine's CPUs may share a cache in one minute and sit on two dies in the next.
Measured before each round of turns, it tells which of the two a figure is from.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.backends import BackEndError

SOURCE = Path(__file__).with_suffix(".c")
MOST_SECONDS = 20


class CacheLine:
    """The small program that measures it, compiled into a directory."""

    def __init__(self, directory: Path, cpu: int, other: int) -> None:
        self._command = [str(directory / "cache_line"), str(cpu), str(other)]
        try:
            subprocess.run(["gcc", "-O2", "-pthread", SOURCE, "-o", self._command[0]], check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise BackEndError(f"{SOURCE.name} does not compile ({error}); install gcc") from error

    def crossing_ns(self) -> float | None:
        """Nanoseconds from a store on one CPU until the other sees it. Takes some hundredths of a second.

        None where other programs have these CPUs for seconds.
        """
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, check=False, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        return float(done.stdout) if done.returncode == 0 else None
