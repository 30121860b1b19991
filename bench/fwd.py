"""A fwd of this tree as a process of its own, for a while."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.backends import ROOT, BackEndError
from fastvhost.control import fwd_process
from fastvhost.control.children import dying_with_us
from fastvhost.control.errors import RuntimeFailure

START_SECONDS = 60.0
STOP_SECONDS = 10.0


@contextlib.contextmanager
def forwarder(directory: Path, sockets: Sequence[str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """It listens on these sockets until the block ends, and is wired 0-1, 2-3, ..."""
    ports = [word for path in sockets for word in ("--port", path)]
    options = ("--forward", "patch", "--control", str(directory / "control.sock"), *options)
    command = fwd_process.command("fwd", *options, *ports)
    written = directory / "fwd.log"
    with written.open("w") as log:
        process = subprocess.Popen(
            dying_with_us(command), cwd=ROOT, env=fwd_process.environment(), stdout=log, stderr=log
        )
    try:
        try:
            fwd_process.await_sockets(process, map(Path, sockets), written.read_text, START_SECONDS)
        except RuntimeFailure as error:
            raise BackEndError(str(error)) from error
        yield process
    finally:
        fwd_process.end(process, STOP_SECONDS)
