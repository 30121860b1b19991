"""What an idle forwarder costs, in wake-ups and rounds.

The time of one depends too much on the machine: in the same hour a thread that wakes once a second was charged 2 us and
42 us a wake-up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MOST_WAKE_UPS = 150.0
"""A second, of all threads together: a worker wakes every 20 ms, the main thread twice a second."""
MOST_ROUNDS = 150.0
"""A second: one for each wake-up of a worker."""


class Cost(NamedTuple):
    """A second."""

    wake_ups: float
    rounds: float

    @property
    def idle(self) -> bool:
        return self.wake_ups <= MOST_WAKE_UPS and self.rounds <= MOST_ROUNDS


def wake_ups(pid: int) -> int:
    """Voluntary context switches of the threads that a process has now. proc(5), status."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            status = (task / "status").read_text()
            total += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def comes_to_rest(pid: int, rounds: Callable[[], int], looks: int = 20) -> None:
    """Wait until it costs no more than an idle one in a second. A forwarder that is never idle fails every look."""
    found: list[Cost] = []
    while not found or not found[-1].idle:
        assert len(found) < looks, found
        found.append(cost(pid, rounds))


def cost(pid: int, rounds: Callable[[], int], seconds: float = 1.0) -> Cost:
    """The cost over `seconds`; `rounds` returns how many rounds its workers have made so far."""
    before, start = (wake_ups(pid), rounds()), time.monotonic()
    time.sleep(seconds)
    after, passed = (wake_ups(pid), rounds()), time.monotonic() - start
    return Cost(*((now - then) / passed for now, then in zip(after, before, strict=True)))
