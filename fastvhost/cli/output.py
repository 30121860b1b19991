"""Standard output and standard error, which are somebody else's: not there, full, unread, or closed before we end."""

from __future__ import annotations

import os
import select
import sys
from typing import Any, TextIO

from fastvhost.backend.foreign_text import printable

__all__ = ["Figures", "discard", "harmless", "open_closed_streams", "printable", "say", "takes"]

AT_ONCE = select.PIPE_BUF
"""So many bytes go into a pipe without waiting where poll() finds any room at all. pipe(7)"""


def harmless(answer: Any) -> Any:
    """What another process answered, every text in it as a terminal may have it (backend.foreign_text)."""
    if isinstance(answer, str):
        return printable(answer)
    if isinstance(answer, list):
        return [harmless(item) for item in answer]
    if isinstance(answer, dict):
        return {harmless(key): harmless(value) for key, value in answer.items()}
    return answer


def say(text: str) -> bool:
    """Print and flush. False once nobody reads any more; from then on everything goes nowhere, without an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard()
        return False
    return True


def discard() -> None:
    """Put /dev/null in the place of a closed pipe, so that Python's flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def open_closed_streams() -> None:
    """Put /dev/null in the place of streams we were started without (`>&-`).

    Otherwise what is opened next gets their number, a guest's memory perhaps, and what is written to them goes there.
    """
    for fd, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def takes(stream: TextIO, seconds: float = 0.0) -> bool:
    """Whether a short line goes out without waiting any longer. A pipe that nobody reads fills up, and takes none."""
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return True  # not a file: a test's
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(seconds * 1000))


class Figures:
    """Lines on standard output that are never waited for: whoever reads them, guests do not depend on it."""

    def __init__(self) -> None:
        self._rest = b""
        self.trouble = ""
        """Why the last line did not go out, empty where it did."""

    def say(self, text: str, seconds: float = 0.0) -> None:
        """Print. Left out, or finished later, where there is no room for it within so many seconds."""
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
        """Write what is left of a line, as far as it goes. Whether all of it went."""
        while self._rest and takes(sys.stdout, seconds):
            try:
                fd = sys.stdout.fileno()
            except (OSError, ValueError):
                sys.stdout.write(self._rest.decode())
                self._rest = b""
            else:
                self._rest = self._rest[os.write(fd, self._rest[:AT_ONCE]) :]
        return not self._rest
