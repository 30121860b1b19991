"""Waits for a condition, with a bound."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MAX_WAIT = float(os.environ.get("FASTVHOST_MAX_WAIT", "30"))
"""Seconds to wait for what must happen. A busy machine may have no time for it for a while.

A test that waits for less asks how fast the machine is. Where a bug is seeded, less will do: tests/mutants sets it.
"""


class WaitedTooLong(AssertionError):
    """Something did not happen in time. The text names it."""


def wait_until(what: str, seconds: float, condition: Callable[[], T]) -> T:
    """Ask until the answer is true, and return it. Raises WaitedTooLong, or what the condition raises."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise WaitedTooLong(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return answer
