"""A fwd of this tree as a process of its own, for a while."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.backends import ROOT, BackEndError
from fastvhost.control.children import dying_with_us

START_SECONDS = 60.0


@contextlib.contextmanager
def forwarder(directory: Path, sockets: Sequence[str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """It listens on these sockets until the block ends, and is wired 0-1, 2-3, ..."""
    command = [sys.executable, "-m", "fastvhost", "fwd", "--control", str(directory / "control.sock"), *options]
    for path in sockets:
        command += ["--port", path]
    with (directory / "fwd.log").open("w") as log:
        process = subprocess.Popen(dying_with_us(command), cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not all(Path(path).exists() for path in sockets):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BackEndError(f"fwd does not come up; its log: {(directory / 'fwd.log').read_text()}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
