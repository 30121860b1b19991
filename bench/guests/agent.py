"""A guest that runs commands, which are sent over a serial port of its own (scripts/guest/agent)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from bench.guests.process import Process, last_lines
from bench.guests.waits import wait_until

RECORD_SEPARATOR = b"\x1e"
READY = RECORD_SEPARATOR + b"ready\n"


class CommandFailed(AssertionError):
    """A command in the guest ended with another status than 0."""


class ObedientGuest(Process):
    """A running guest. `run` a command in it: returns the output, or raises CommandFailed."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        *,
        pass_fds: Sequence[int] = (),
        channel: socket.socket | None = None,
    ) -> None:
        """channel: this end of the guest's serial port. None: QEMU was started with serial_options()."""
        self._agent_path, self._console_path = _agent_path(directory, name), _console_path(directory, name)
        self._agent_path.unlink(missing_ok=True)
        self._agent = channel or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        self._commands = 0
        super().__init__(name, command, directory, pass_fds=pass_fds)
        if channel is None:
            # Connect at once: QEMU discards the guest's output while nobody is connected.
            wait_until(f"{self.name} opens its serial port", 30, self._connect)

    def report(self) -> dict[str, str]:
        report = super().report()
        if self._console_path.exists():
            report[f"{self.name}'s console"] = last_lines(self._console_path.read_text(errors="replace"))
        return report

    def wait_ready(self, seconds: float = 240) -> Self:
        """Wait until the guest has started, or started again, and its shell answers."""
        self._receive_until(READY, seconds, f"{self.name} starts")
        return self

    def run(self, command: str, seconds: float = 20) -> str:
        """Run a shell command in the guest, which ends it after `seconds`. Returns its output."""
        parts: list[bytes] = []
        status = self.follow(command, seconds, parts.append)
        output = b"".join(parts).decode()
        if status:
            raise CommandFailed(f"{self.name}: '{command}' ended with {status}: {last_lines(output, 5)}")
        return output

    def follow(self, command: str, seconds: float, show: Callable[[bytes], object]) -> int:
        """Run a shell command, and pass its output on as it comes. Returns its exit status."""
        self._send(command, seconds)
        # The guest's clock bounds the command; it runs late where the host is overloaded.
        mark = RECORD_SEPARATOR + b"%d " % self._commands
        self._receive_until(mark, seconds + 20, f"{self.name} ends '{command}'", show)
        return int(self._receive_until(b"\n", 5, f"{self.name} tells the status of '{command}'"))

    def _connect(self) -> bool:
        self.check_running()
        try:
            self._agent.connect(str(self._agent_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def _send(self, command: str, seconds: float) -> None:
        assert "\n" not in command
        self._commands += 1
        self._agent.sendall(f"{self._commands} {seconds:.0f} {command}\n".encode())

    def _receive_until(
        self, mark: bytes, seconds: float, what: str, show: Callable[[bytes], object] | None = None
    ) -> bytes:
        """The output before a mark. `show`: called with parts of it as they come."""
        deadline = time.monotonic() + seconds
        while mark not in self._received:
            if show is not None:
                # The end may be the beginning of the mark.
                whole, separator, rest = self._received.rpartition(mark[:1])
                ready, self._received = (whole, separator + rest) if separator else (rest, b"")
                show(ready)
            self._agent.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                part = self._agent.recv(65536)
            except TimeoutError:
                self.check_running()
                raise AssertionError(f"not within {seconds:g} s: {what}") from None
            if not part:
                self.popen.wait(5)
                self.check_running()
            self._received += part
        before, _, self._received = self._received.partition(mark)
        if show is not None:
            show(before)
        return before

    def __exit__(self, *_: object) -> None:
        self._agent.close()
        super().__exit__()


def _agent_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.agent"


def _console_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.console"


def serial_options(directory: Path, name: str) -> list[str]:
    """QEMU's options for the two serial ports of a guest with an agent: its console and its channel."""
    return [
        "-serial", f"file:{_console_path(directory, name)}",
        "-chardev", f"socket,id=agent,path={_agent_path(directory, name)},server=on,wait=off",
        "-serial", "chardev:agent",
    ]  # fmt: skip
