"""The built-in guests as an honest pair: their flood, in turns with and without an attack. Invariant I2.

A pair that sends 6000 frames a second does not notice a worker that loses nine tenths of its time; this one takes all
of the worker's time. Its rate is frames per second of the time in which its thread and the worker both had a CPU
(tests/probes/common_time.pyx): frames move only then. A worker that waits for anything else loses that time to the
attack.

A flood beside changes of a fwd is measured in the same way (tests/integration/test_changes_soak.py).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastvhost.driver.guests import Guests, PairSettings
from tests.hostile.invariant import Broken
from tests.hostile.rings import FORMATS
from tests.probes.common_time import CommonTime
from tests.worker_thread import only_worker, other_core

TURN, SETTLE = 0.3, 0.05
"""Seconds of a turn, and seconds at its beginning in which the worker may still finish work of the turn before."""
LEAST_SECONDS, MOST_SECONDS = 0.01, 10.0
"""A turn lasts until both had a CPU for at least so long, and it is not used where they had not after the second."""
LEAST_SHARE = 0.9
FAIR_SHARE = 0.45
"""What remains beside a port that legally takes as much of the worker as it can: half, less what turns differ."""
TURNS = 4
"""Turns with the attack, and as many without."""
MOST_TURNS = 28
"""The most turns, where the median is too low."""
LONGEST = 120.0
"""The most seconds for them."""
SIZE = 256
DRAIN_SECONDS, STEPS = 5.0, 1000


class Look(NamedTuple):
    """The flood's counters at one moment."""

    seconds: float
    """So long its thread and the worker both had a CPU."""
    frames: int
    """Received in that time."""
    wrong: int
    """Frames corrupt, repeated or reordered."""


class Counted(NamedTuple):
    """What became of the flood's frames, both ways together, once none of them is in flight."""

    frames: int
    """Received, whatever was wrong with them."""
    lost: int
    corrupt: int
    reordered: int
    duplicated: int


class Flood:
    """The process with the built-in guests, as the test uses it. It floods between start() and rest()."""

    def __init__(self, paths: Sequence[Path], ring: str, fwd: int, log_path: Path) -> None:
        """paths: the sockets of both guests; fwd: the process that serves them, which has one worker."""
        self.core = other_core(fwd)
        """The CPU of the flood and of the attacker; the worker has another one for itself."""
        schedstat = only_worker(fwd) / "schedstat"
        words = [*map(str, paths), ring, str(schedstat), *([] if self.core is None else [str(self.core)])]
        self._log = log_path
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.flood", *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
            )  # fmt: skip
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
        return Look(nanoseconds / 1e9, frames, wrong)

    def count(self) -> Counted:
        """After rest()."""
        return Counted(*self._say("count"))

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
        before, end = self.look(), start + seconds
        while True:
            while time.monotonic() < end:
                work()
            after = self.look()
            if after.wrong:
                raise Broken("I2", f"{after.wrong} frames of the honest flood are corrupt, repeated or out of order")
            if (common := after.seconds - before.seconds) >= LEAST_SECONDS:
                return (after.frames - before.frames) / common
            if time.monotonic() > start + seconds + MOST_SECONDS:
                return None
            end = time.monotonic() + seconds / 4


class Shares:
    """Pairs of turns: the ratio of the honest flood's rates with and without the attack."""

    def __init__(
        self, flood: Flood, act: Callable[[], object], quiet: Callable[[], object], seconds: float = TURN
    ) -> None:
        """seconds: of a turn."""
        self._flood, self._act, self._quiet, self._seconds = flood, act, quiet, seconds
        self.ratios: list[float] = []
        self.rates: list[tuple[float, float]] = []
        """Frames a second with and without the attack, for each pair."""

    def pair(self) -> None:
        """Run one turn of each; which of them is first alternates."""
        if len(self.rates) % 2:
            calm, attacked = self._rate_while(self._quiet), self._rate_while(self._act)
        else:
            attacked, calm = self._rate_while(self._act), self._rate_while(self._quiet)
        if attacked is not None and calm:
            self.rates.append((attacked, calm))
            self.ratios.append(attacked / calm)

    def _rate_while(self, work: Callable[[], object]) -> float | None:
        return self._flood.rate_while(work, self._seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.ratios) if self.ratios else 0.0

    @property
    def spread(self) -> dict[str, float]:
        """Median and quartiles of the ratios."""
        quartiles = statistics.quantiles(self.ratios, n=4) if len(self.ratios) > 1 else [0.0] * 3
        return {key: round(value, 3) for key, value in zip(("q1", "median", "q3"), quartiles, strict=True)}

    def measure(self, least: float, turns: int = TURNS) -> None:
        """Raise Broken where the median of the ratios is clearly below `least`."""
        most, start = max(MOST_TURNS, turns + turns // 4), time.monotonic()
        self._flood.start()
        try:
            for _ in range(most):
                if len(self.ratios) >= turns and self.median >= least:
                    break
                # So many turns that are all too low are no accident.
                if (len(self.ratios) >= 2 * turns and max(self.ratios) < least) or time.monotonic() > start + LONGEST:
                    break
                self.pair()
        finally:
            self._flood.rest()
        if self.median < least:
            words = ", ".join(f"{a / 1e6:.2f} of {b / 1e6:.2f}" for a, b in self.rates)
            words = words or "no turn says anything, since its thread and the worker never had a CPU at the same time"
            raise Broken("I2", f"the honest flood kept {self.median:.0%}, not {least:.0%}; Mpps in turns: {words}")


class Stepped(Guests):
    """Guests whose load is stepped by the caller, and measured over the time that its thread and the worker share."""

    def __init__(self, left: str, right: str, ring: str, schedstat: int) -> None:
        own = FORMATS[ring]
        settings = PairSettings(sizes=(SIZE,), packed=own.packed, in_order=own.in_order, huge=False, timeout=60.0)
        super().__init__(left, right, settings)
        self.connect()
        assert self._load
        self._stepped = self._load
        self.common = CommonTime(self._stepped.step, tuple(self._devices), schedstat)

    def flood(self) -> None:
        self._stepped.flood()

    def rest(self) -> None:
        """Until all buffers are back, and all frames received that were delivered before."""
        self._stepped.drain()
        deadline = time.monotonic() + DRAIN_SECONDS
        back = False
        while not back and time.monotonic() < deadline:
            back = not any(device.unreturned for device in self._devices)
            for _ in range(STEPS):
                self._stepped.step()

    def count(self) -> Counted:
        now = self.counters()
        lost = sum(way.sent_frames - (way.frames - way.corrupt - way.duplicated) for way in now)
        return Counted(now.frames, lost, now.corrupt, now.reordered, now.duplicated)


def main(left: str, right: str, ring: str, schedstat: str, core: str = "") -> None:
    """Answers each line of its input: `start` and `rest` with an empty line, `look` with its counters."""
    if core:
        os.sched_setaffinity(0, {int(core)})
    guests, floods = Stepped(left, right, ring, os.open(schedstat, os.O_RDONLY)), False
    print(flush=True)
    while True:
        if floods:
            guests.common.run(sys.stdin.fileno())
        word = sys.stdin.readline().strip()
        if word == "start":
            guests.flood()
            floods = True
            print(flush=True)
        elif word == "rest":
            guests.rest()
            floods = False
            print(flush=True)
        elif word == "look":
            counted = guests.counters()
            wrong = counted.corrupt + counted.reordered + counted.duplicated
            if not guests.connected:
                raise SystemExit("the connection of a guest of the flood was closed")
            print(guests.common.nanoseconds, guests.common.frames, wrong, flush=True)
        elif word == "count":
            print(*guests.count(), flush=True)
        else:
            break
    guests.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
