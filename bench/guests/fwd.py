"""The program under test: `fastvhost fwd` as a process, its log and its counters."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import conservation
from bench.guests.cores import FWD_CORE
from bench.guests.process import Process
from bench.guests.waits import MAX_WAIT
from fastvhost.control import control_client, fwd_process
from fastvhost.control.errors import RuntimeFailure

FASTVHOST = fwd_process.command()
ENVIRONMENT = fwd_process.environment()
IN_PAIRS = ("--forward", "patch")
"""Options for four ports and more that are wired 0-1, 2-3, ..., not a switch."""
# The time, then a severity of at least warning; or an internal error.
WARNING = re.compile(r"^[-\d]+ [:.\d]+ (warning|error|critical): |^Traceback")
# Warnings about other work on the machine, or about slow wake-ups of a CPU, are no fault of fwd or its guests.
BUSY_MACHINE = re.compile(
    r"busy with other work|waited [\d.]+ (s|% of the time) for|take more than 20 us to signal|"
    r"without a core to run on|the worker is back|it has no core to run on|makes rounds again"
)


def awaited(port: str) -> str | None:
    """The name of a guest's port; None for a port towards this host."""
    where, *settings = port.split(",")
    if ".sock" not in where and not where.startswith("cuse:"):
        return None
    named = [word.removeprefix("name=") for word in settings if word.startswith("name=")]
    return named[0] if named else Path(where.removeprefix("cuse:")).stem


class Fwd(Process):
    """A running forwarder. Its ports listen, or wait for a peer to connect to, when the constructor returns."""

    def __init__(
        self, directory: Path, ports: Sequence[str], options: Sequence[str] = (), prefix: Sequence[str] = ()
    ) -> None:
        """prefix: a command that runs fwd, such as one that enters a network namespace."""
        self.control = directory / "control"
        ports_given = [word for port in ports for word in ("--port", port)]
        command = [*FASTVHOST, "fwd", *ports_given, "--control", str(self.control), "--cores", str(FWD_CORE), *options]
        super().__init__("fwd", [*prefix, *command], directory, env=ENVIRONMENT)
        for name in filter(None, map(awaited, ports)):
            self.wait_log(rf"port {name}: (listening|connecting)", 60)

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self.popen.poll() is None:
            conservation.check_stats(self.stats)
        super().__exit__(*error)

    def ask(self, *words: str) -> str:
        """The output of a verb of fastvhost about this process."""
        answer = subprocess.run(
            [*FASTVHOST, *words, "--control", self.control],
            env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True, timeout=2 * MAX_WAIT,
        )  # fmt: skip
        return answer.stdout

    def stats(self) -> dict[str, Any]:
        """All counters, asked without starting a process, which may take long."""
        return dict(control_client.ask(str(self.control), "stats"))

    def show(self, port: str) -> dict[str, Any]:
        """What `fastvhost show` knows about a port. Without another process, as stats()."""
        (about,) = control_client.ask(str(self.control), "show", port=port)
        return dict(about)

    def report(self) -> dict[str, str]:
        shown = super().report()
        if self.popen.poll() is None:
            with contextlib.suppress(RuntimeFailure):
                shown["fwd's counters"] = "\n".join(f"{n}: {port}" for n, port in self.stats()["ports"].items())
        return shown

    def rounds(self) -> int:
        """How many rounds its workers have made."""
        return sum(int(worker["rounds"]) for worker in self.stats()["workers"].values())

    def frames(self) -> int:
        """Frames of all ports received so far."""
        return sum(port["rx_frames"] for port in self.stats()["ports"].values())

    def dropped(self) -> int:
        """Frames of all ports dropped so far, for whatever reason."""
        ports = self.stats()["ports"].values()
        return sum(n for port in ports for side in ("rx_dropped", "tx_dropped") for n in port[side].values())

    def ports_down(self) -> bool:
        """Whether no port has a peer."""
        return all(port["link"] == "down" for port in self.stats()["ports"].values())

    def warnings(self) -> list[str]:
        """Warnings and errors in the log."""
        return [line for line in self.log().splitlines() if WARNING.search(line) and not BUSY_MACHINE.search(line)]
