"""So many at once, then so many a second: what one port may cost the others."""

from __future__ import annotations

import time
from collections.abc import Callable


class Bucket:
    """Holds `most` at first and at most, and gains `a_second`. What is taken beyond it is owed."""

    def __init__(self, most: float, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self._holds = float(most)
        self._a_second = a_second
        self._clock = clock
        self._at = clock()

    def take(self, n: float = 1) -> None:
        """Take so many, which may be more than it holds."""
        self._fill()
        self._holds -= n

    @property
    def ready_at(self) -> float | None:
        """When it holds one again, on the clock; None: it does."""
        self._fill()
        return None if self._holds >= 1 else self._at + (1 - self._holds) / self._a_second

    @property
    def at_rest(self) -> bool:
        """Whether it holds half of what it may: nobody takes much."""
        self._fill()
        return self._holds >= self._most / 2

    def _fill(self) -> None:
        now = self._clock()
        self._holds = min(self._most, self._holds + (now - self._at) * self._a_second)
        self._at = now
