"""A program under test or beside it: its log, its end, and its part of a failure's report."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, Self

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control.children import dying_with_us

LINES_SHOWN = 25


class Process:
    """Runs a program with its output in a file. It dies with its parent, also when that is killed itself."""

    started: ClassVar[list[Process]] = []
    """Processes whose logs a failure shows: conftest empties the list after each module."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        *,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.directory = directory
        self.log_path = _unused(directory, name)
        with self.log_path.open("wb") as log:
            self.popen: subprocess.Popen[bytes] = subprocess.Popen(
                dying_with_us(command),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=pass_fds,
            )
        Process.started.append(self)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self.popen.stdin is not None
        return self.popen.stdin

    def log(self) -> str:
        # Its directory may have been removed.
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def report(self) -> dict[str, str]:
        """Title and text for a failure's report."""
        end = "running" if self.popen.poll() is None else f"ended with {self.popen.returncode}"
        return {f"{self.name} ({end})": last_lines(self.log())}

    def check_running(self) -> None:
        if self.popen.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.popen.returncode}: {last_lines(self.log(), 5)}")

    def wait_log(self, pattern: str, seconds: float = MAX_WAIT, *, after: int = 0) -> re.Match[str]:
        """Wait for a line of the log that matches, beyond the first `after` characters."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.log()[after:], re.MULTILINE)
            if match is None:
                self.check_running()
            return match

        match = wait_until(f"/{pattern}/ in the log of {self.name}", seconds, found)
        assert match is not None
        return match

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        self.popen.kill()
        self.popen.wait(MAX_WAIT)

    def stop(self, seconds: float = MAX_WAIT) -> int:
        """SIGTERM, then SIGKILL. Idempotent. Returns the exit status."""
        if self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()
        self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _unused(directory: Path, name: str) -> Path:
    """A log for each start, so that a later process of the same name does not overwrite it."""
    taken = len(list(directory.glob(f"{name}-*.log")))
    return directory / f"{name}-{taken}.log"


def last_lines(text: str, count: int = LINES_SHOWN) -> str:
    return "\n".join(text.splitlines()[-count:])
