"""A real fwd as a process of its own between two sockets, for demo and bench."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastvhost.control import affinity, fwd_process
from fastvhost.control.children import dying_with_us
from fastvhost.control.errors import RuntimeFailure

SOCKETS = ("a.sock", "b.sock", "control.sock")
HOLDS = ("--hold-timeout", "10s")
"""The built-in guests may be without a CPU for longer than fwd holds frames by default: they lose nothing then."""


def cores() -> tuple[int | None, int | None]:
    """A core for the worker and one for both guests, where two are allowed; else none is pinned."""
    allowed = sorted(affinity.allowed())
    return (allowed[-1], allowed[-2]) if len(allowed) > 1 else (None, None)


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """A new directory, removed afterwards with its contents. Raises RuntimeFailure where none can be made."""
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise RuntimeFailure(
            f"no temporary directory can be made: {error.strerror}; name one that can be written with TMPDIR=DIR"
        ) from error
    with made as name:
        yield Path(name)


@contextmanager
def forwarder(directory: Path, core: int | None, log: Path | None = None) -> Iterator[None]:
    """A fwd that listens; the end of the block ends it. Raises where its exit code is not 0.

    log: a file for its output.
    """
    words = ["fwd", "--port", "a.sock", "--port", "b.sock", "--control", "control.sock", *HOLDS]
    words += [] if core is None else ["--cores", str(core)]
    command, environment = fwd_process.command(*words), fwd_process.environment()
    if log is None:
        print("$ " + " ".join(["fastvhost", *words]), flush=True)
        # Its last counters go to our stdout: they are a part of what is shown.
        process = subprocess.Popen(dying_with_us(command), cwd=directory, env=environment)
    else:
        with log.open("w") as lines:
            process = subprocess.Popen(
                dying_with_us(command), cwd=directory, env=environment, stdout=lines, stderr=lines
            )
    try:
        with _ended_by_signals():
            sockets = [directory / name for name in SOCKETS]
            fwd_process.await_sockets(process, sockets, lambda: _end_of_log(log))
            yield
    finally:
        code = fwd_process.end(process)
    if code:
        raise RuntimeFailure(f"fwd left with exit code {code}; {_end_of_log(log)}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """On SIGTERM or SIGHUP stop the child fwd, too, as ^C does; otherwise it would go on polling its core.

    A signal that is ignored (SIGHUP under nohup) stays ignored.
    """

    def end(number: int, _frame: object) -> None:
        raise RuntimeFailure(f"ended by {signal.Signals(number).name} before it was done")

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_of_log(log: Path | None) -> str:
    lines = [] if log is None else log.read_text().splitlines()[-1:]
    return f"it said last: {lines[0]}" if lines else "see its log above"
