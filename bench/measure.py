"""Times a call that does its work many times in C. The recorder divides, so the figure is nanoseconds per unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TURNS = 1000
ROUNDS = 40


def per_unit(benchmark: Any, units: int, unit: str, work: Callable[..., object], *args: object) -> None:
    """Time work(*args), which processes `units` of `unit` per call; bench/record.py divides by that number."""
    benchmark.extra_info.update(units=units, unit=unit)
    benchmark.pedantic(work, args=args, rounds=ROUNDS, warmup_rounds=2)
