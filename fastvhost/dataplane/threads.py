"""Threads whose start never waits for ever.

threading.Thread.start() waits until the new thread says that it runs. One that finds no memory for its very first
Python frame (the interpreter maps 16 KiB for it, which a limit of mappings or vm.overcommit_memory=2 may refuse) ends
without a word, and start() would wait for it for ever.
"""

from __future__ import annotations

import threading
from typing import Any

START_SECONDS = 5.0
"""After this long a thread counts as one that could not be made. If it comes later all the same, it does nothing."""


class _Started(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        """Raises RuntimeError after START_SECONDS, in the words of a thread that the system cannot make."""
        if timeout is None and not super().wait(START_SECONDS):
            raise RuntimeError("can't start new thread: it found no memory, or did not get to run")
        return super().wait(timeout)


class Thread(threading.Thread):
    """threading.Thread, but start() raises RuntimeError where the thread does not come to run."""

    def __init__(self, **options: Any) -> None:
        """As threading.Thread. What it does is `target`: a subclass does not override run()."""
        super().__init__(**options)
        # What start() waits for, in all Pythons so far. One that waits for something else is as it is without this.
        self._started: threading.Event = _Started()
        self._decided = threading.Lock()
        """Taken by the first of the two: the thread, which then runs, or start(), which then raises."""

    def start(self) -> None:
        """Raises RuntimeError, and then nothing is ever done in it."""
        try:
            super().start()
        except RuntimeError:
            if self._decided.acquire(blocking=False):
                raise

    def run(self) -> None:
        """Call the target, unless start() gave up before."""
        if self._decided.acquire(blocking=False):
            super().run()
