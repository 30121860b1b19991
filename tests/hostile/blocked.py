"""How long threads of a process sleep in the kernel at a time, and in which function, seen from outside.

A thread that sleeps, and has as many context switches as at the look before, has slept all the time between. So the
time that is reported is never too long; on a busy machine there are only fewer looks. The time in which threads of the
process were ready to run without a CPU is subtracted: a thread that waits for one of those waits for that CPU.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LOOK = 0.001
"""The least seconds between two looks."""
YOUNG = 0.003
"""Shorter sleeps, in seconds, are not looked into."""
IDLE = ("poll_schedule_timeout", "do_epoll_wait", "ep_poll", "do_sigtimedwait")
"""Kernel functions in which an idle thread waits: for any of many descriptors, or for a signal. As in
/proc/PID/task/TID/wchan."""
AWAKE = "0"
"""That file for a thread that is about to sleep or was woken: it waits for a CPU only."""
STATUS = re.compile(rb"^State:\t(\w).*^voluntary_ctxt_switches:\t(\d+)", re.M | re.S)
"""/proc/PID/task/TID/status, proc(5)."""


def is_idle(pid: int, thread: int) -> bool:
    """Whether it is idle: it waits in one of these functions."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{thread}/wchan").read_text().startswith(IDLE)
    return False


class Sleep(NamedTuple):
    """The longest one."""

    seconds: float
    """Without the time in which threads had no CPU."""
    thread: int
    where: str
    """The kernel's function."""


class Looks(NamedTuple):
    """What was seen up to now."""

    longest: Sleep
    number: int
    widest: float
    """The longest time between two looks, in seconds: shorter sleeps may have been missed."""


class Sleeper:
    """One thread."""

    def __init__(self, task: Path) -> None:
        self._task = task
        self.tid = int(task.name)
        self._status = os.open(task / "status", os.O_RDONLY)
        self._schedule = os.open(task / "schedstat", os.O_RDONLY)
        self._sleep = -1
        """The number of the sleep, -1 while it runs or may run."""
        self._since = self._waited = self._seen = 0.0
        self._where = ""

    def waited(self) -> float:
        """Seconds in which it was ready to run and had no CPU."""
        with contextlib.suppress(OSError):  # it ended
            return int(os.pread(self._schedule, 64, 0).split()[1]) / 1e9
        return 0.0

    def look(self, waited: float) -> Sleep | None:
        """Returns a sleep that has ended, unless the thread was idle. `waited`: of all threads together.

        Only after its end is it known how long the threads that were to end it waited for a CPU.
        """
        now, number = time.monotonic(), self._number()
        if number == self._sleep and number >= 0:
            if now - self._since >= YOUNG and self._is_blocked():
                self._seen = now
            return None
        ended = self.so_far(waited)
        self._sleep, self._since, self._waited, self._where, self._seen = number, now, waited, "", 0.0
        return ended

    def so_far(self, waited: float) -> Sleep | None:
        """The sleep that it is in."""
        if not self._seen:
            return None
        return Sleep(self._seen - self._since - (waited - self._waited), self.tid, self._where)

    def _is_blocked(self) -> bool:
        where = self._where or self._find_out()
        return bool(where) and not where.startswith(IDLE)

    def _number(self) -> int:
        """The number of its current sleep."""
        with contextlib.suppress(OSError):
            found = STATUS.search(os.pread(self._status, 4096, 0))
            if found and found[1] in b"SD":
                return int(found[2])
        return -1

    def _find_out(self) -> str:
        with contextlib.suppress(OSError):
            where = (self._task / "wchan").read_text()
            if where != AWAKE and self._number() == self._sleep:  # so that is where it is in this sleep
                self._where = where
        return self._where


class Blocked:
    """The process that looks, as the test uses it."""

    def __init__(self, pid: int, threads: Iterable[int]) -> None:
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", __name__, str(pid), *map(str, threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.look()

    def look(self) -> Looks:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        seconds, thread, where, number, widest = self.process.stdout.readline().split()
        return Looks(Sleep(float(seconds), int(thread), where), int(number), float(widest))

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def look_on(pid: int, threads: Iterable[int]) -> None:
    """Look until standard input ends; answer each line of it with the sleeps seen so far."""
    sleepers = [Sleeper(Path(f"/proc/{pid}/task/{thread}")) for thread in threads]
    longest, number, widest, last = Sleep(0.0, 0, "-"), 0, 0.0, time.monotonic()
    while True:
        asked = select.select([sys.stdin], [], [], LOOK)[0]
        now = time.monotonic()
        number, widest, last = number + 1, max(widest, now - last), now
        waited = sum(sleeper.waited() for sleeper in sleepers)
        found = [sleep for sleeper in sleepers if (sleep := sleeper.look(waited))]
        longest = max([longest, *found], key=lambda sleep: sleep.seconds)
        if asked:
            if not sys.stdin.readline():
                return
            lasting = [sleep for sleeper in sleepers if (sleep := sleeper.so_far(waited))]
            print(*max([longest, *lasting], key=lambda sleep: sleep.seconds), number, widest, flush=True)


if __name__ == "__main__":
    look_on(int(sys.argv[1]), map(int, sys.argv[2:]))
