"""The log: messages of the control plane, on stderr, one line each.

backend.logbook bounds how many a peer can cause.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from fastvhost.cli.output import printable, takes

MAX_WAIT = 0.1
"""Seconds that a line waits for a slow reader before it is left out. Further lines are left out at once."""


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        severity = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = printable(record.getMessage())
        if record.exc_info:
            text = "\n".join([text, *map(printable, self.formatException(record.exc_info).splitlines())])
        return f"{when}.{int(record.msecs):03} {severity}{text}"


class _Handler(logging.StreamHandler[TextIO]):
    """Leaves lines out while nobody reads them: a full pipe must not make a port or the exit wait."""

    left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not takes(self.stream, 0.0 if self.left_out else MAX_WAIT):
            self.left_out += 1
            return
        lost, self.left_out = self.left_out, 0
        if lost:
            note = f"{lost} lines were left out here, nobody read them"
            super().emit(logging.LogRecord(record.name, logging.WARNING, "", 0, note, None, None))
            if not takes(self.stream):
                self.left_out = 1
                return
        super().emit(record)


def configure(level: str = "info") -> None:
    """Send the logger "fastvhost" to stderr."""
    logging.raiseExceptions = False  # a closed stderr must not end a forwarder
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("fastvhost")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
