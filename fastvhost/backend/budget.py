"""A token bucket: how much one port may cost the others, at once and then per second."""

from __future__ import annotations

import time
from collections.abc import Callable


class Bucket:
    """Starts with `most` tokens, never has more, and gains `a_second`. What is taken beyond that is owed."""

    def __init__(self, most: float, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self._holds = float(most)
        self._a_second = a_second
        self._clock = clock
        self._at = clock()

    def take(self, n: float = 1) -> None:
        """Take n tokens, which may be more than there are."""
        self._fill()
        self._holds -= n

    @property
    def ready_at(self) -> float | None:
        """When there will be a token, on the clock; None: there is one now."""
        self._fill()
        return None if self._holds >= 1 else self._at + (1 - self._holds) / self._a_second

    @property
    def at_rest(self) -> bool:
        """Whether at least half of the tokens are there, so little was taken of late."""
        self._fill()
        return self._holds >= self._most / 2

    def _fill(self) -> None:
        now = self._clock()
        self._holds = min(self._most, self._holds + (now - self._at) * self._a_second)
        self._at = now
