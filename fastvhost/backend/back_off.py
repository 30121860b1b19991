"""How long no front-end is taken after one whose connection had to be ended for what it did to others."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST, LAST = 1.0, 60.0
"""Seconds; each time twice as long as before, up to a minute."""
FORGOTTEN_AFTER = 300.0
"""Seconds of good conduct behind the end of one; then it begins anew."""


class BackOff:
    """Of one port."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wait = FIRST
        self._until = float("-inf")

    def begin(self) -> float:
        """Take no front-end from now on, for so many seconds."""
        now = self._clock()
        if now >= self._until + FORGOTTEN_AFTER:
            self._wait = FIRST
        seconds, self._wait = self._wait, min(LAST, 2 * self._wait)
        self._until = now + seconds
        return seconds

    @property
    def ends_at(self) -> float | None:
        """On the clock; None where front-ends are taken."""
        return self._until if self._clock() < self._until else None

    @property
    def seconds_left(self) -> float:
        """0 where front-ends are taken."""
        return max(0.0, self._until - self._clock())
