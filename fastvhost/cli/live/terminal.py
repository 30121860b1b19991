"""A terminal while `fastvhost top` has it: keys at once, its own screen, and all as it was at the end, however it ends.

Sequences are those of xterm (ECMA-48, section 8.3), which the terminals of today share.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

from fastvhost.cli.output import takes
from fastvhost.control.errors import UsageError

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""A screen of its own, no cursor, and no new line where one is too long."""
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
HOLD, SHOW = "\x1b[?2026h", "\x1b[?2026l"
"""Show what is written between them at once. Terminals that do not know this ignore it."""
SIZE = (80, 24)
"""Where a terminal does not tell."""
LEAVE_SECONDS = 0.5
"""Beyond that a terminal is not waited for that takes nothing."""
INPUT = 0
"""The index of the input modes in what tcgetattr() tells."""
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
NO_TERMINAL = "keys and a screen need a terminal; fastvhost top --once prints the figures once"


class EndedBySignal(BaseException):
    """A signal asks this program to end, or the terminal has gone, with the signal on its way."""


def check() -> None:
    """Raises UsageError where there is no terminal to read keys from, or none to draw on."""
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        if not stream.isatty():
            raise UsageError(f"standard {name} is no terminal: {NO_TERMINAL}")
    if (kind := os.environ.get("TERM", "")) in ("", "dumb", "unknown"):
        raise UsageError(f"TERM={kind}: such a terminal has no place to go back to: {NO_TERMINAL}")


class Terminal:
    """`with Terminal() as terminal:`. To be used in the main thread."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._before: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._leaving = False
        self._drawn: list[str] = []
        self._writing = 0
        """Another number where what was written no longer stands there."""
        self._woken, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakes_before = -1

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._in)
        atexit.register(self.leave)
        actions = {
            signal.SIGINT: self._interrupt,
            signal.SIGTSTP: self._suspend,
            signal.SIGWINCH: self._resized,
            **dict.fromkeys(ENDING, self._end),
        }
        for number, action in actions.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, action)
        self._wakes_before = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        try:
            self._take()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()

    @property
    def filenos(self) -> tuple[int, int]:
        """Readable when a key was pressed, and when a signal came."""
        return self._in, self._woken

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._out)
            if size.columns > 0 and size.lines > 0:
                return size.columns, size.lines
        return SIZE

    def read(self) -> bytes | None:
        """What was typed. None: the terminal has gone."""
        try:
            return os.read(self._in, 1024) or None
        except OSError:
            return None

    def hear(self) -> None:
        """A signal came: its handler has run."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 1024)

    @property
    def takes(self) -> bool:
        """Whether draw() need not wait. A slow line takes nothing for a while."""
        return takes(sys.stdout)

    def draw(self, lines: Sequence[str]) -> None:
        """Write the lines that differ from those drawn last."""
        changed = [
            f"\x1b[{number};1H\x1b[2K{line}\x1b[0m"
            for number, line in enumerate(lines, 1)
            if number > len(self._drawn) or self._drawn[number - 1] != line
        ]
        writing, self._drawn = self._writing, []
        try:
            self._write("".join((HOLD, *changed, SHOW)) if changed else "")
        except OSError:
            raise EndedBySignal("the terminal has gone") from None
        if writing == self._writing:
            self._drawn = list(lines)

    def forget(self) -> None:
        """Something else wrote to the terminal, or its size is another one: draw() writes all of it."""
        self._writing += 1
        self._drawn = []

    def leave(self) -> None:
        """Put all back. Idempotent."""
        self._leaving = True
        atexit.unregister(self.leave)
        if not self._before:
            return
        self._give_back()
        self._before = []
        signal.set_wakeup_fd(self._wakes_before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._woken)
        os.close(self._wakes)

    def _take(self) -> None:
        tty.setcbreak(self._in, termios.TCSANOW)
        mode = termios.tcgetattr(self._in)
        mode[INPUT] &= ~termios.IXON  # ^S is a key without a meaning, and stops nothing that only ^Q would start again
        termios.tcsetattr(self._in, termios.TCSANOW, mode)
        self._write(ENTER)
        self.forget()

    def _give_back(self) -> None:
        with contextlib.suppress(termios.error):  # it has gone
            termios.tcsetattr(self._in, termios.TCSANOW, self._before)
        if takes(sys.stdout, LEAVE_SECONDS):
            with contextlib.suppress(OSError):
                self._write(LEAVE)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "ascii", "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        self.forget()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self._leaving:
            raise KeyboardInterrupt

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if not self._leaving:
            raise EndedBySignal(signal.Signals(number).name)

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        """^Z: the shell gets its terminal as it was; `fg` takes it again."""
        if self._leaving:
            return
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._take()
