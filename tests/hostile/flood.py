"""The built-in guests as an honest pair: their flood, in turns with and without an attack. Invariant I2.

A pair that sends 6000 frames a second does not notice a worker that loses nine tenths of its time; this one takes all
of the worker's time. Its rate is frames per second in which both its thread and the worker had a CPU: frames move only
then. Other waits of the worker count against the attack.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.hostile.backend import Backend
from tests.hostile.invariant import Broken
from tests.hostile.rings import FORMATS
from tests.own_time import waited_seconds

TURN, SETTLE = 0.5, 0.05
"""Seconds of a turn, and seconds at its beginning in which the worker may still finish work of the turn before."""
LEAST_SHARE = 0.9
FAIR_SHARE = 0.45
"""What remains beside a port that legally takes as much of the worker as it can: half, less what turns differ."""
TURNS = 4
"""Turns with the attack, and as many without."""
MOST_TURNS = 28
"""The most turns, where the median is too low."""
HOPELESS = 0.5
"""Of the wanted share: a median below that after twice the turns is certain."""
LEAST_CPU = 0.2, 0.3
"""A turn in which the flood's thread, or the worker, had its CPU for less of the time is not used."""
SIZE = 256


class Look(NamedTuple):
    """The flood's counters at one moment."""

    seconds: float
    frames: int
    wrong: int
    """Frames corrupt, repeated or reordered."""
    waited: tuple[float, float]
    """Seconds without a CPU, of its thread and of the worker."""


class Flood:
    """The process with the built-in guests, as the test uses it. It floods between start() and rest()."""

    def __init__(self, backend: Backend, left: str, right: str, ring: str) -> None:
        self._backend = backend
        self.had: list[tuple[float, float]] = []
        """For each turn, the part of the time in which its thread and the worker had a CPU."""
        self.core = backend.other_core()
        """The CPU of the flood and of the attacker; the worker has another one for itself."""
        paths = [str(backend.path(name)) for name in (left, right)]
        command = [
            sys.executable,
            "-m",
            "tests.hostile.flood",
            *paths,
            ring,
            *([] if self.core is None else [str(self.core)]),
        ]
        self._log = backend.directory / "flood.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )
        self._answer()

    def _say(self, word: str) -> list[int]:
        assert self.process.stdin
        try:
            self.process.stdin.write(word + "\n")
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> list[int]:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise self._ended()
        return [int(word) for word in line.split()]

    def _ended(self) -> Broken:
        return Broken("I2", f"the honest flood ended: {self._log.read_text()[-1000:]}")

    def start(self) -> None:
        self._say("start")

    def rest(self) -> None:
        """Stop sending, and wait until no frame is in flight."""
        self._say("rest")

    def look(self) -> Look:
        nanoseconds, frames, wrong = self._say("look")
        waited = waited_seconds(Path(f"/proc/{self.process.pid}")), self._backend.worker_waited_seconds()
        return Look(nanoseconds / 1e9, frames, wrong, waited)

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def rate_while(self, work: Callable[[], object], seconds: float = TURN) -> float | None:
        """Frames a second while `work` is done again and again; None where the machine left too little CPU time."""
        start = time.monotonic()
        while time.monotonic() < start + SETTLE:
            work()
        before = self.look()
        while time.monotonic() < start + seconds:
            work()
        after = self.look()
        if after.wrong:
            raise Broken("I2", f"{after.wrong} frames of the honest flood are corrupt, repeated or out of order")
        wall = after.seconds - before.seconds
        # Their waits for a CPU are independent: both run at the same time for the product of the two parts.
        had = [max(0.0, 1 - (now - then) / wall) for now, then in zip(after.waited, before.waited, strict=True)]
        self.had.append((had[0], had[1]))
        if had[0] < LEAST_CPU[0] or had[1] < LEAST_CPU[1]:
            return None
        return (after.frames - before.frames) / (wall * had[0] * had[1])


class Shares:
    """Pairs of turns: the ratio of the honest flood's rates with and without the attack."""

    def __init__(self, flood: Flood, act: Callable[[], object], quiet: Callable[[], object]) -> None:
        self._flood, self._act, self._quiet = flood, act, quiet
        self.ratios: list[float] = []
        self.rates: list[tuple[float, float]] = []
        """Frames a second with and without the attack, for each pair."""

    def pair(self) -> None:
        """Run one turn of each; which of them is first alternates."""
        if len(self.rates) % 2:
            calm, attacked = self._flood.rate_while(self._quiet), self._flood.rate_while(self._act)
        else:
            attacked, calm = self._flood.rate_while(self._act), self._flood.rate_while(self._quiet)
        if attacked is not None and calm:
            self.rates.append((attacked, calm))
            self.ratios.append(attacked / calm)

    @property
    def median(self) -> float:
        return statistics.median(self.ratios) if self.ratios else 0.0

    def measure(self, least: float, turns: int = TURNS) -> None:
        """Raise Broken where the median of the ratios is clearly below `least`."""
        most = max(MOST_TURNS, turns + turns // 4)
        self._flood.start()
        try:
            for _ in range(most):
                if len(self.ratios) >= turns and self.median >= least:
                    break
                if len(self.ratios) >= 2 * turns and self.median < HOPELESS * least:
                    break
                self.pair()
        finally:
            self._flood.rest()
        if self.median < least:
            words = ", ".join(f"{a / 1e6:.2f} of {b / 1e6:.2f}" for a, b in self.rates)
            if not words:
                had = ", ".join(f"{thread:.0%} and {worker:.0%}" for thread, worker in self._flood.had[-8:])
                words = f"no turn says anything: its thread and the worker had a CPU for {had} of the time"
            raise Broken("I2", f"the honest flood kept {self.median:.0%}, not {least:.0%}; Mpps in turns: {words}")


def main(arguments: list[str]) -> None:
    """Answers each line of its input: `start` and `rest` with an empty line, `look` with its counters."""
    from fastvhost.driver.guests import Guests, PairSettings

    left, right, ring, *core = arguments
    own = FORMATS[ring]
    settings = PairSettings(
        sizes=(SIZE,), packed=own.packed, in_order=own.in_order, core=int(core[0]) if core else None, huge=False,
        timeout=60.0,
    )  # fmt: skip
    guests = Guests(left, right, settings)
    guests.connect()
    print(flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "start":
            guests.start()
            print(flush=True)
        elif word == "rest":
            guests.stop_load()
            print(flush=True)
        else:
            now, counted = time.monotonic_ns(), guests.counters()
            wrong = counted.corrupt + counted.reordered + counted.duplicated
            if not guests.connected:
                raise SystemExit("the connection of a guest of the flood was closed")
            print(now, counted.frames, wrong, flush=True)
    guests.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
