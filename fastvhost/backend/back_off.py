"""How long a port takes no front-end after it ended one that disturbed other ports."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST, LAST = 1.0, 60.0
"""Seconds. Each refusal lasts twice as long as the one before, up to a minute."""
FORGOTTEN_AFTER = 300.0
"""Seconds after the end of a refusal. With no new one in that time, the next lasts FIRST seconds again."""


class BackOff:
    """The refusals of one port."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wait = FIRST
        self._until = float("-inf")

    def begin(self) -> float:
        """Take no front-end from now on. Returns for how many seconds."""
        now = self._clock()
        if now >= self._until + FORGOTTEN_AFTER:
            self._wait = FIRST
        seconds, self._wait = self._wait, min(LAST, 2 * self._wait)
        self._until = now + seconds
        return seconds

    @property
    def ends_at(self) -> float | None:
        """When the refusal ends, on the clock; None where front-ends are taken."""
        return self._until if self._clock() < self._until else None

    @property
    def seconds_left(self) -> float:
        """Until the refusal ends; 0 where front-ends are taken."""
        return max(0.0, self._until - self._clock())
