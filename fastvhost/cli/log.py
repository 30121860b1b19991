"""The log: what the control plane says, on stderr, one line each, bounded per port. CLI.md; threats.md, I10."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

# A guest that connects in a loop makes a handful of lines each time; an operator still wants to see the first of them.
BURST_LINES = 100
LINES_PER_SECOND = 5.0


class _Budget:
    def __init__(self, now: float) -> None:
        self.lines = float(BURST_LINES)
        self.since = now
        self.suppressed = 0


class RateLimit(logging.Filter):
    """A budget of lines for each port, so that none can fill the disk or drown what is said about the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._budgets: dict[str, _Budget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is printed; the first one after a pause tells how many were not."""
        now = self._clock()
        message = record.getMessage()
        # "port a: ..." has the budget of port a; there are as many as ports, and one for everything else.
        key = message.split(":", 1)[0] if message.startswith("port ") else ""
        budget = self._budgets.setdefault(key, _Budget(now))
        budget.lines = min(BURST_LINES, budget.lines + (now - budget.since) * LINES_PER_SECOND)
        budget.since = now
        if budget.lines < 1:
            budget.suppressed += 1
            return False
        budget.lines -= 1
        if budget.suppressed:
            record.msg, record.args = f"{message} ({budget.suppressed} lines about this left out before)", ()
            budget.suppressed = 0
        return True


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        severity = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{when}.{int(record.msecs):03} {severity}{text}"


def configure(level: str = "info") -> None:
    """Send the logger "fastvhost" to stderr."""
    logging.raiseExceptions = False  # a closed stderr must not end a forwarder
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    handler.addFilter(RateLimit())
    logger = logging.getLogger("fastvhost")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
