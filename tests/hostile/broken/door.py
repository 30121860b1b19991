"""What keeps the mini back-end's worker and its control threads out of each other's way."""

from __future__ import annotations

import threading


class Door:
    """A lock that nobody gets twice while another waits. Who holds it may take it again.

    A plain one the worker takes back before the thread that waits has run, many times where the machine is busy.
    """

    def __init__(self) -> None:
        self._next, self._lock = threading.Lock(), threading.Lock()
        self._owner = self._depth = 0

    def __enter__(self) -> None:
        if self._owner != threading.get_ident():
            with self._next:
                self._lock.acquire()
            self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            self._lock.release()
