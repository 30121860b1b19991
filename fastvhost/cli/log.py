"""The log: what the control plane says, on stderr, one line each. vhostuser.logbook bounds what a peer can cause."""

from __future__ import annotations

import logging
import sys
import time


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
    logger = logging.getLogger("fastvhost")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
