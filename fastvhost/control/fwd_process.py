"""Starts a fwd of this copy of fastvhost as a process, waits for it and ends it. For demo, bench and tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fastvhost.control.errors import RuntimeFailure

START_SECONDS = 10.0
STOP_SECONDS = 5.0
HERE = Path(__file__).resolve().parents[2]


def command(*words: str | Path) -> list[str]:
    """A verb of fastvhost and its options, to be run with environment()."""
    return [sys.executable, "-P", "-m", "fastvhost", *map(str, words)]


def environment() -> dict[str, str]:
    """Environment variables with which the child imports this copy, whatever directory it starts in."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))}


def await_sockets(
    process: subprocess.Popen[bytes], sockets: Iterable[Path], said: Callable[[], str], seconds: float = START_SECONDS
) -> None:
    """Wait until fwd listens on all sockets. said: what to add to the RuntimeFailure where it ends or is late."""
    missing, deadline = list(sockets), time.monotonic() + seconds
    while missing := [path for path in missing if not path.exists()]:
        if process.poll() is not None:
            raise RuntimeFailure(f"fwd left with exit code {process.returncode} before it listened; {said()}")
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"fwd does not listen after {seconds:g} s; {said()}")
        time.sleep(0.01)


def end(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> int:
    """Send SIGTERM, and SIGKILL after `seconds`. Returns the exit code."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
