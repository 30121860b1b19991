"""Waiting for something to become true, never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


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
