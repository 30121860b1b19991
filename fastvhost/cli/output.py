"""Standard output that may close before we end (`fastvhost ... | head`)."""

from __future__ import annotations

import os
import sys


def say(text: str) -> bool:
    """Print and flush. False once nobody reads any more; from then on everything goes nowhere, without an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard()
        return False
    return True


def discard() -> None:
    """Put /dev/null in the place of a closed pipe, so that Python's flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
