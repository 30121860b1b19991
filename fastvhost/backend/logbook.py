"""Log lines of one port, bounded: whatever a peer does, it cannot fill a disk in a short time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from fastvhost.backend.foreign_text import printable

BURST = 40
PER_SECOND = 1.0
"""Each kind of line may come BURST times in a row, and then this often."""


class Line(NamedTuple):
    """One line of the log, and what kind of line it is."""

    level: int
    text: str
    about: str
    """The kind. Lines of a kind share a budget, so that many of one kind suppress none of another."""


class _Budget:
    def __init__(self, now: float) -> None:
        self.lines = float(BURST)
        self.since = now
        self.left_out = 0


class Logbook:
    """Writes to the logger "fastvhost", each line beginning with the port."""

    def __init__(self, port: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._budgets: dict[str, _Budget] = {}
        self._log = logging.getLogger("fastvhost")

    def write(self, line: Line) -> None:
        now = self._clock()
        budget = self._budgets.setdefault(line.about, _Budget(now))
        budget.lines = min(BURST, budget.lines + (now - budget.since) * PER_SECOND)
        budget.since = now
        if budget.lines < 1:
            budget.left_out += 1
            return
        budget.lines -= 1
        more = f" ({budget.left_out} such lines left out before)" if budget.left_out else ""
        budget.left_out = 0
        fields = {"port": self._port, "about": line.about}
        self._log.log(line.level, "%s", printable(f"port {self._port}: {line.text}{more}"), extra=fields)
