"""A terminal that a test looks at: tmux with a server of its own, which nobody else's is touched by."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.guests.waits import MAX_WAIT

SHELL = "/bin/sh"


class Tmux:
    """One window with a shell in it. Socket and all in a directory of the test."""

    def __init__(self, directory: Path, width: int, height: int, environment: dict[str, str]) -> None:
        self._socket = str(directory / "tmux")
        without = {key: value for key, value in os.environ.items() if key not in ("TMUX", "NO_COLOR")}
        self._environment = {**without, "LC_ALL": "C.UTF-8", **environment}
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", str(width), "-y", str(height), SHELL)
        self._tmux("set-option", "-g", "escape-time", "0")
        self.wait("a prompt", str.strip)

    def text(self) -> str:
        """What stands on the screen."""
        return self._tmux("capture-pane", "-p")

    def lines(self) -> list[str]:
        """All lines of the screen, also empty ones."""
        return self.text().rstrip("\n").split("\n")

    def run(self, *words: str) -> None:
        """A command for the shell. Its end, with its exit code, is told by a line `ended CODE`."""
        self.type(f"{shlex.join(words)}; echo ended $?")
        self.keys("Enter")

    def type(self, text: str) -> None:
        """Characters as they are."""
        self._tmux("send-keys", "-l", text)

    def keys(self, *names: str) -> None:
        """Keys by tmux's names, one after the other."""
        for name in names:
            self._tmux("send-keys", name)

    def clear(self) -> None:
        """An empty screen, for a shell that waits."""
        self.type("clear")
        self.keys("Enter")
        self.wait("an empty screen", lambda text: len(text.split()) <= 1)

    def format(self, what: str) -> str:
        """What tmux knows of the window, by its formats."""
        return self._tmux("display-message", "-p", what).rstrip("\n")

    def settings(self) -> list[object]:
        """Of the terminal, as tcgetattr(3) tells them."""
        fd = os.open(self.format("#{pane_tty}"), os.O_RDWR | os.O_NOCTTY)
        try:
            return termios.tcgetattr(fd)
        finally:
            os.close(fd)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def wait(self, what: str, condition: Callable[[str], object], seconds: float = MAX_WAIT) -> str:
        """Until the screen is as it is to be; returns it. A failure shows it."""
        deadline = time.monotonic() + seconds
        while not condition(text := self.text()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}\n{text}"
            time.sleep(0.05)
        return text

    def wait_for(self, *parts: str) -> str:
        """Until all these texts stand on the screen."""
        return self.wait(", ".join(parts), lambda text: all(part in text for part in parts))

    def close(self) -> None:
        """End this server, and what runs in it."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        command: Sequence[str] = ("tmux", "-S", self._socket, *words)
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=2 * MAX_WAIT, check=True
        )
        return done.stdout


@contextlib.contextmanager
def tmux(directory: Path, width: int = 80, height: int = 24, **environment: str) -> Iterator[Tmux]:
    """environment: of what runs there."""
    made = Tmux(directory, width, height, environment)
    try:
        yield made
    finally:
        made.close()
