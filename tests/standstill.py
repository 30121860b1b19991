"""Steps workers until they stand still."""

from __future__ import annotations

from typing import Any

QUIET = 8
"""Rounds in a row that move nothing. After one alone a port may still wait for its turn: its visit before seemed long
where another program had the CPU meanwhile (dataplane/roster)."""


def settle(*workers: Any, rounds: int = 1000) -> int:
    """Step them in turn until none has anything to do. Returns the frames moved."""
    moved = quiet = 0
    for _ in range(rounds):
        step = sum(worker.step() for worker in workers)
        moved += step
        quiet = 0 if step else quiet + 1
        if quiet == QUIET:
            return moved
    raise AssertionError(f"still moving frames after {rounds} rounds")
