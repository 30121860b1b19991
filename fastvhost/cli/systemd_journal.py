"""systemd's journal, where it takes standard error: lines with fields of their own, by its native protocol.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL. A line of the log has MESSAGE, PRIORITY and SYSLOG_IDENTIFIER. One about a
port or a worker has FASTVHOST_PORT or FASTVHOST_WORKER, too, and FASTVHOST_ABOUT, the kind of line.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Iterable
from typing import TextIO

from fastvhost.backend.foreign_text import printable

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "fastvhost"
FIELDS = {"port": "FASTVHOST_PORT", "worker": "FASTVHOST_WORKER", "about": "FASTVHOST_ABOUT"}
"""By the attribute of a log record, which `extra` gives it."""
LENGTH = struct.Struct("<Q")
TIMEVAL = struct.Struct("ll")
MICROSECONDS = 1_000_000


def takes_stream(stream: TextIO) -> bool:
    """Whether the stream is the one that systemd connected to its journal. systemd.exec(5), $JOURNAL_STREAM"""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def priority(level: int) -> int:
    """The severity of a log record, as syslog(3) numbers them."""
    for least, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return number
    return 7


def mark(level: int) -> str:
    """What a line begins with that is written to such a stream. sd-daemon(3), SD_ERR and others"""
    return f"<{priority(level)}>"


def entry(fields: Iterable[tuple[str, str]]) -> bytes:
    """One entry of the native protocol. A value of several lines is preceded by its length."""
    parts = []
    for name, value in fields:
        data = value.encode(errors="replace")
        if b"\n" in data:
            parts += [name.encode(), b"\n", LENGTH.pack(len(data)), data, b"\n"]
        else:
            parts += [name.encode(), b"=", data, b"\n"]
    return b"".join(parts)


class JournalSocket:
    """Sends entries. The socket is systemd's own, and stays where the journal's service is started anew."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, record: logging.LogRecord, text: str, seconds: float) -> bool:
        """False where the journal did not take it within so many seconds. Raises OSError where there is none."""
        fields = [("MESSAGE", text), ("PRIORITY", str(priority(record.levelno))), ("SYSLOG_IDENTIFIER", IDENTIFIER)]
        values = [(name, getattr(record, attribute, None)) for attribute, name in FIELDS.items()]
        fields += [(name, printable(str(value))) for name, value in values if value is not None]
        # Not Python's time-out: poll() calls a datagram socket writable that has not been connected.
        wait = TIMEVAL.pack(0, int(seconds * MICROSECONDS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        flags = socket.MSG_NOSIGNAL | (0 if seconds else socket.MSG_DONTWAIT)
        try:
            self._socket.sendto(entry(fields), flags, self._path)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                raise
            return False
        return True
