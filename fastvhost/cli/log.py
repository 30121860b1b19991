"""The log: messages of the control plane, on stderr, one line each; in systemd's journal with severity and fields.

backend.logbook bounds how many a peer can cause.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from fastvhost.cli import systemd_journal
from fastvhost.cli.output import printable, takes

MAX_WAIT = 0.1
"""Seconds that a line waits for a slow reader before it is left out. Further lines are left out at once."""


def _text(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    text = printable(record.getMessage())
    if record.exc_info:
        text = "\n".join([text, *map(printable, formatter.formatException(record.exc_info).splitlines())])
    return text


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        severity = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{when}.{int(record.msecs):03} {severity}{_text(record, self)}"


class _Marked(logging.Formatter):
    """Each line begins with its severity, as sd-daemon(3) has it; the journal knows the time."""

    def format(self, record: logging.LogRecord) -> str:
        mark = systemd_journal.mark(record.levelno)
        return "\n".join(f"{mark}{line}" for line in _text(record, self).split("\n"))


class _Handler(logging.StreamHandler[TextIO]):
    """Leaves lines out while nobody reads them: a full pipe must not make a port or the exit wait."""

    left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        wait = MAX_WAIT
        if self.left_out:
            note = f"{self.left_out} lines were left out here, nobody read them"
            if not self.write(logging.LogRecord(record.name, logging.WARNING, "", 0, note, None, None), 0.0):
                self.left_out += 1
                return
            self.left_out, wait = 0, 0.0
        if not self.write(record, wait):
            self.left_out += 1

    def write(self, record: logging.LogRecord, seconds: float) -> bool:
        """False where it is not taken within so many seconds."""
        if not takes(self.stream, seconds):
            return False
        super().emit(record)
        return True


class _JournalHandler(_Handler):
    """Writes to the journal's own socket, or where that cannot be had to the stream, which the journal reads, too."""

    def __init__(self, stream: TextIO, path: str = systemd_journal.SOCKET) -> None:
        super().__init__(stream)
        self._journal: systemd_journal.JournalSocket | None = systemd_journal.JournalSocket(path)
        self._plain = logging.Formatter()

    def write(self, record: logging.LogRecord, seconds: float) -> bool:
        if self._journal:
            try:
                return self._journal.send(record, _text(record, self._plain), seconds)
            except OSError:
                self._journal = None
        return super().write(record, seconds)


def configure(level: str = "info") -> None:
    """Send the logger "fastvhost" to stderr."""
    logging.raiseExceptions = False  # a closed stderr must not end a forwarder
    in_journal = systemd_journal.takes_stream(sys.stderr)
    handler = _JournalHandler(sys.stderr) if in_journal else _Handler(sys.stderr)
    handler.setFormatter(_Marked() if in_journal else _Formatter())
    logger = logging.getLogger("fastvhost")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
