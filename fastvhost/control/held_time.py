"""How long the memory of one port kept workers waiting: when that is logged, and when it is too much.

A guest whose memory is swapped in now and then keeps a worker waiting for milliseconds; that is logged. A tenth of all
time is too much: it is taken from the other guests of that worker.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LONG = 0.010
"""Seconds in one visit that are logged."""
WINDOW, MOST = 5.0, 0.5
"""Seconds that are looked back at, and how many of them are too much."""
PAUSE = 0.1
"""Seconds between two reports that it is too much: ending the front-end takes a moment."""


class Judgement(NamedTuple):
    """What is reported to the port's control thread."""

    seconds: float
    """In one visit; where it is too much, in the last WINDOW seconds."""
    too_much: bool


class HeldTime:
    """The held time of one port. `now` is on the monotonic clock."""

    def __init__(self) -> None:
        self._parts: deque[tuple[float, float]] = deque()
        self._total = 0.0
        self._visit = -1
        self._in_visit = 0.0
        self._tells_at = self._judges_at = float("-inf")

    def add(self, now: float, seconds: float, visit: int) -> Judgement | None:
        """Add seconds of a visit. Returns what to report, if anything."""
        self._parts.append((now, seconds))
        self._total += seconds
        while self._parts[0][0] < now - WINDOW:
            self._total -= self._parts.popleft()[1]
        if visit != self._visit:
            self._visit, self._in_visit = visit, 0.0
        self._in_visit += seconds
        if self._total >= MOST and now >= self._judges_at:
            self._judges_at, self._tells_at = now + PAUSE, now + WINDOW
            return Judgement(self._total, too_much=True)
        if self._in_visit >= LONG and now >= self._tells_at:
            self._tells_at = now + WINDOW
            return Judgement(self._in_visit, too_much=False)
        return None
