"""Back-ends in turns of less than a second: all are started, and all but one are stopped.

The machine's speed drifts by the second (other guests of its host, where the host puts our CPUs). A round of turns
runs every back-end within a few seconds, so the ratio of two of them in one round says more than either rate.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.backends import INSTRUMENTS, ROOT, BackEnd, BackEndError, compiled
from fastvhost.control.children import dying_with_us

SETTLE_SECONDS = 0.1
# A peer may take long where it shares its CPU: OVS clears 760 MiB of hugepages between the two connections, 1.7 s of
# CPU time in which its loop polls on the same core.
TRAFFIC_SECONDS = 120.0


class Pair:
    """A back-end and its guests, which run only during their turns."""

    def __init__(self, back_end: BackEnd, guest_arguments: Sequence[str]) -> None:
        self.back_end = back_end
        self.windows: list[dict[str, Any]] = []
        self.final: dict[str, Any] = {}
        self.progress = threading.Event()
        self._running = True
        self._guests = subprocess.Popen(
            dying_with_us(self._command(guest_arguments)),
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=back_end._log, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _command(self, arguments: Sequence[str]) -> list[str]:
        command = [sys.executable, "-m", "bench.guest_load", *self.back_end.sockets, *arguments]
        return [*command, *(["--listen"] if self.back_end.guests_listen else [])]

    @staticmethod
    def _understand(line: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(line)
        return said

    def _read(self) -> None:
        assert self._guests.stdout is not None
        for line in self._guests.stdout:
            said = self._understand(line)
            if "t" in said:
                self.windows.append(said)
                if has_frames(said):
                    self.progress.set()
            self.final = said.get("final", self.final)
        self.progress.set()

    def await_traffic(self) -> None:
        """Wait until a window with frames has arrived. Guests report windows as soon as both are connected."""
        self.progress.wait(TRAFFIC_SECONDS)
        if not any(map(has_frames, self.windows)):
            raise BackEndError(f"{self.back_end.name}: no traffic; {self.back_end.end_of_log()}")

    def signal(self, what: signal.Signals) -> None:
        # The guests run whenever the back-end runs: else it might drop frames that they do not take in time.
        pids = [*self.back_end.pids, self._guests.pid]
        for pid in pids if what == signal.SIGSTOP else reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)
        self._running = what == signal.SIGCONT

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> list[dict[str, Any]]:
        """Run for a while, longer where the machine is too busy to report in time.

        Returns the windows that lie in that time. Its beginning is left out: the caches held others' data then.
        """
        start = time.monotonic() + SETTLE_SECONDS
        self.signal(signal.SIGCONT)
        time.sleep(SETTLE_SECONDS + seconds)
        while not (windows := self._windows_since(start)) and time.monotonic() < start + 10 * seconds:
            time.sleep(0.05)
        self.freeze()
        return windows

    def _windows_since(self, start: float) -> list[dict[str, Any]]:
        return [w for w in self.windows if start <= w["t"] - w["d"]]

    def finish(self) -> None:
        """Let the guests drain and go. Idempotent."""
        if not self._running:
            self.signal(signal.SIGCONT)
        if self._guests.stdin is not None:
            with contextlib.suppress(OSError):
                self._guests.stdin.close()
        try:
            self._guests.wait(10)
        except subprocess.TimeoutExpired:
            self._guests.kill()
            self._guests.wait()
        self._reader.join(5)


class VgenPair(Pair):
    """A back-end under vgen (bench/instruments), a load on split rings to measure the built-in guests against."""

    def _command(self, arguments: Sequence[str]) -> list[str]:
        program = compiled(INSTRUMENTS / "vgen.c", self.back_end.directory / "vgen")
        size, core = (arguments[arguments.index(option) + 1] for option in ("--size", "--core"))
        return [program, size, core, self.back_end.a, self.back_end.b]

    @staticmethod
    def _understand(line: str) -> dict[str, Any]:
        said = {key: float(value) for key, value in (word.split("=") for word in line.split())}
        return {"t": said["t"], "d": said["d"], "frames": said["rx"]}

    def finish(self) -> None:
        self._guests.kill()
        super().finish()


def has_frames(window: Mapping[str, float]) -> bool:
    """A window of latencies always has some: they are of frames that arrived."""
    return window.get("frames", 1) > 0


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return dict.fromkeys(("q1", "median", "q3"), values[0] if values else float("nan"))
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def paired_ratios(first: Sequence[float | None], other: Sequence[float | None]) -> dict[str, float]:
    """Median and quartiles of first/other, round by round; rounds that one of them missed are left out."""
    return summary([a / b for a, b in zip(first, other, strict=True) if a and b])
