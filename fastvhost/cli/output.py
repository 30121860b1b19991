"""Standard output and standard error, which may be missing, full, not read, or closed before this program ends."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Any, TextIO

from fastvhost.backend.foreign_text import printable
from fastvhost.cli import systemd_journal

__all__ = ["Figures", "complain", "discard", "harmless", "open_closed_streams", "printable", "say", "takes"]

AT_ONCE = select.PIPE_BUF
"""Bytes that can be written to a pipe without waiting where poll() says that it is writable. pipe(7)"""


def harmless(answer: Any) -> Any:
    """The answer of another process, with every text in it made safe for a terminal (backend.foreign_text)."""
    if isinstance(answer, str):
        return printable(answer)
    if isinstance(answer, list):
        return [harmless(item) for item in answer]
    if isinstance(answer, dict):
        return {harmless(key): harmless(value) for key, value in answer.items()}
    return answer


def say(text: str) -> bool:
    """Print and flush. False once the reader has gone; from then on all output is discarded, without an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard()
        return False
    return True


def complain(error: str) -> None:
    """Print an error on standard error, as one line; in systemd's journal it has the severity of one."""
    severity = systemd_journal.mark(logging.ERROR) if systemd_journal.takes_stream(sys.stderr) else ""
    print(f"{severity}fastvhost: {printable(error)}", file=sys.stderr)


def discard() -> None:
    """Put /dev/null in the place of a closed pipe, so that Python's flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def open_closed_streams() -> None:
    """Put /dev/null in the place of standard streams that were closed at the start (`>&-`).

    Otherwise the next file that is opened gets their number, and output would be written to it: to a guest's memory,
    perhaps.
    """
    for fd, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def takes(stream: TextIO, seconds: float = 0.0) -> bool:
    """Whether a short line can be written within `seconds`. A pipe that nobody reads fills up."""
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return True  # not a file: a test's
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(seconds * 1000))


class Figures:
    """Writes lines to standard output without ever waiting for their reader, so that guests do not depend on it."""

    def __init__(self) -> None:
        self._rest = b""
        self.trouble = ""
        """Why the last line was not written; empty where it was."""

    def say(self, text: str, seconds: float = 0.0) -> None:
        """Print. Where there is no room within `seconds`, the line is left out, or finished later."""
        try:
            if self._push(seconds):
                self._rest = text.encode() + b"\n"
                self._push(seconds)
        except BrokenPipeError:
            discard()
            self._rest = b""
        except OSError as error:
            self.trouble = str(error.strerror)
        else:
            self.trouble = "nobody reads them" if self._rest else ""

    def _push(self, seconds: float) -> bool:
        """Write what is left of a line, as far as there is room. Returns whether all of it was written."""
        while self._rest and takes(sys.stdout, seconds):
            try:
                fd = sys.stdout.fileno()
            except (OSError, ValueError):
                sys.stdout.write(self._rest.decode())
                self._rest = b""
            else:
                self._rest = self._rest[os.write(fd, self._rest[:AT_ONCE]) :]
        return not self._rest
