"""Processes forked from one that has loaded the modules: they start in milliseconds, and tests start many."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.hostile.honest", "tests.hostile.broken.mini"])


def _run(main: Callable[[Sequence[str]], object], arguments: Sequence[str], log: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(fd, standard)
    os.close(fd)
    sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    main(arguments)


class Forked:
    """The part of subprocess.Popen's interface that is needed here, for a Python function."""

    def __init__(self, main: Callable[[Sequence[str]], object], arguments: Sequence[str], log: Path) -> None:
        self._process = CONTEXT.Process(target=_run, args=(main, arguments, str(log)), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._process.exitcode
        return self._status

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status, None when it still runs."""
        if self._status is None:
            self._process.join(timeout)
            if self.poll() is not None:
                self._process.close()
        return self._status

    def terminate(self) -> None:
        if self._status is None:
            self._process.terminate()

    def kill(self) -> None:
        if self._status is None:
            self._process.kill()
