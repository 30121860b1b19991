"""Asks a running fwd again and again, in a thread: keys are heard while it does not answer."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fastvhost.control import control_client
from fastvhost.control.errors import FastvhostError

SOON = 0.5
"""Seconds until the second reading, and the most between two attempts where fwd does not answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, or why there is none."""

    at: float
    """time.monotonic() when it came."""
    answer: Any = None
    trouble: str = ""


class Source:
    """Where the figures come from: the fwd at a path, or the only one that runs."""

    def __init__(self, control: str | None) -> None:
        self._named = control
        self.path = Path(control) if control else control_client.find()
        """Of the control socket that is asked. Another one where that fwd has gone and a new one runs."""

    def ask(self) -> Any:
        """An answer to "top". Raises FastvhostError."""
        try:
            return control_client.ask(os.fspath(self.path), "top")
        except FastvhostError:
            if not self._named:
                with contextlib.suppress(FastvhostError):
                    self.path = control_client.find()
            raise


class Asker:
    """`with Asker(source, 1.0) as asker:`. Its thread ends with the process where fwd keeps it waiting."""

    def __init__(self, source: Source, every: float) -> None:
        self.every = every
        self._source = source
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._hurry = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="asker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        self._hurry.set()

    def fileno(self) -> int:
        """Readable when take() has something."""
        return self._event

    def take(self) -> list[Told]:
        """What came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._told.get_nowait())
        return found

    def change(self, every: float) -> None:
        """Ask so often from now on."""
        if every != self.every:
            self.every = every
            self._hurry.set()

    def _run(self) -> None:
        asked = time.monotonic()
        self._hurry.wait(min(self.every, SOON))
        while not self._ended:
            self._hurry.clear()
            asked = time.monotonic()
            try:
                told = Told(time.monotonic(), answer=self._source.ask())
            except FastvhostError as error:
                told = Told(time.monotonic(), trouble=str(error))
            self._told.put(told)
            os.eventfd_write(self._event, 1)
            pause = min(self.every, SOON) if told.trouble else self.every
            self._hurry.wait(max(0.05, asked + pause - time.monotonic()))
