"""`fastvhost fwd` as a process of its own, in a short directory, with its two output streams apart."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import conservation
from bench.guests.fwd import BUSY_MACHINE
from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.control import control_client, fwd_process
from tests.own_time import OwnTime

FASTVHOST = fwd_process.command()
ENVIRONMENT = fwd_process.environment()


@dataclass
class Forwarder:
    """A running fwd with ports a and b, and what it printed so far."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def sockets(self) -> tuple[str, str]:
        return str(self.directory / "a.sock"), str(self.directory / "b.sock")

    @property
    def out(self) -> str:
        return (self.directory / "out").read_text()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def warnings(self) -> list[str]:
        lines = [
            line for line in self.log.splitlines() if "warning: " in line or "error: " in line or "Traceback" in line
        ]
        return [line for line in lines if not BUSY_MACHINE.search(line)]

    def wait_for(self, what: str, condition: Callable[[], object], seconds: float = MAX_WAIT) -> None:
        """Until the condition holds; a failure shows the log."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}\n{self.log}"
            assert self.process.poll() is None, f"fwd ended with {self.process.returncode}\n{self.log}"
            time.sleep(0.005)

    def rounds(self) -> int:
        """How many rounds its workers have made."""
        return sum(int(worker["rounds"]) for worker in self.stats()["workers"].values())

    def stats(self) -> dict[str, Any]:
        """Every counter."""
        return dict(control_client.ask(str(self.directory / "control.sock"), "stats"))

    def wait_log(self, text: str, seconds: float = MAX_WAIT) -> None:
        self.wait_for(f"'{text}' in the log", lambda: text in self.log, seconds)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """The exit code after a signal, and the seconds it took without waits for a CPU."""
        own, deadline = OwnTime(self.process.pid), time.monotonic() + MAX_WAIT
        self.process.send_signal(number)
        while self.process.poll() is None:
            seconds = own.seconds
            assert time.monotonic() < deadline, f"it does not end\n{self.log}"
            time.sleep(0.002)
        return self.process.returncode, seconds


@contextmanager
def forwarder(
    *options: str,
    ports: tuple[str, ...] = ("a.sock", "b.sock"),
    defect: str = "",
    seconds: float = MAX_WAIT,
    prefix: Sequence[str] = (),
    log_has: str = "",
) -> Iterator[Forwarder]:
    """A fwd that listens on its sockets, within so many seconds. Killed at the end where the test has not ended it.

    defect: Python code that it runs first, to put a defect of its own into it.
    prefix: a command that becomes fwd, such as one that enters a namespace.
    log_has: what its log says once it listens, where `ports` are not all of its ports.
    """
    with short_dir() as directory:
        words = [word for port in ports for word in ("--port", port)]
        with (directory / "out").open("wb") as out, (directory / "log").open("wb") as log:
            program = FASTVHOST
            if defect:
                main = "import sys\nfrom fastvhost.cli.main import main\nsys.exit(main())"
                program = [sys.executable, "-c", f"{defect}\n{main}"]
            command = [*prefix, *program, "fwd", *words, "--control", "control.sock", *options]
            process = subprocess.Popen(command, cwd=directory, env=ENVIRONMENT, stdout=out, stderr=log)
        running = Forwarder(process, directory)
        try:
            running.wait_log(log_has or f"port {Path(ports[-1].partition(',')[0]).stem}: ", seconds)
            yield running
            if process.poll() is None and not defect:
                conservation.check_stats(running.stats)
        finally:
            process.kill()
            process.wait()


def fastvhost(
    *words: str, cwd: Path | None = None, seconds: float = 2 * MAX_WAIT, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Another verb, to its end. settings: for its environment."""
    return subprocess.run(
        [*FASTVHOST, *words], cwd=cwd, env=ENVIRONMENT | settings,
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
