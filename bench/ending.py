"""Ends a long command properly, whatever ends it: all processes that it started end, and its files are removed.

A signal becomes an exception, so that each `with` block of the command removes what it made. The programs that it runs
end when their parent ends (fastvhost/control/children.py), and with them the interfaces and device files that they
made. SIGKILL leaves only a directory behind. It can be recognised, since nobody holds its lock any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

PREFIX = "fv-run-"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals(name: str) -> None:
    """From now on the first of these signals raises SystemExit, with a shell's exit status; later ones are ignored.

    One that is ignored (SIGHUP under nohup) stays ignored.
    """

    def end(number: int, _: FrameType | None) -> None:
        be_deaf()
        os.write(sys.stderr.fileno(), f"{name}: {signal.Signals(number).name}: taking everything down\n".encode())
        raise SystemExit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def be_deaf() -> None:
    """Block the signals while everything is removed."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def run_whole(command: Sequence[str | Path], directory: Path, output: int | None = None) -> int:
    """Run a program that starts others; a signal that ends this process ends all of them. Returns its status."""
    with subprocess.Popen(
        list(command), cwd=directory, stdin=subprocess.DEVNULL, stdout=output, start_new_session=True
    ) as program:
        try:
            return program.wait()
        except BaseException:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(program.pid, number)
                    program.wait(20)
            raise


@contextlib.contextmanager
def own_directory() -> Iterator[Path]:
    """A directory in which all temporary files of this process are made. It is removed afterwards with its contents."""
    outside = tempfile.gettempdir()
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _locked(path)
        if lock is not None and path.exists():  # another process may have removed it as that of a dead one
            break
    tempfile.tempdir = str(path)
    try:
        yield path
    finally:
        tempfile.tempdir = outside
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_left_over() -> list[Path]:
    """Remove the directories of processes that have ended. Returns their paths."""
    removed = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        if (lock := _locked(path)) is not None:
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
            os.close(lock)
    return removed


def _locked(path: Path) -> int | None:
    """The directory, open and locked, or None where its owner still runs."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened
