"""Waits for a condition, with a bound."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SHORTEST, LONGEST = 0.001, 0.02
"""Seconds between two looks: short at first, since most things happen soon."""

MAX_WAIT = float(os.environ.get("FASTVHOST_MAX_WAIT", "30"))
"""Seconds to wait for what must happen. A busy machine may have no time for it for a while.

A test that waits for less asks how fast the machine is. Where a bug is seeded, less will do: tests/mutants sets it.
"""


class WaitedTooLong(AssertionError):
    """Something did not happen in time. The text names it."""


def wait_until(what: str, seconds: float, condition: Callable[[], T]) -> T:
    """Ask until the answer is true, and return it. Raises WaitedTooLong, or what the condition raises."""
    deadline, pause = time.monotonic() + seconds, SHORTEST
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise WaitedTooLong(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)
    return answer
