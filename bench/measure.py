"""Tells the recorder what a benchmark counts: a call makes many turns in C; the figure is nanoseconds per unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TURNS = 1000
ROUNDS = 40


def per_unit(benchmark: Any, units: int, unit: str, work: Callable[..., object], *args: object) -> None:
    """Time work(*args), which deals with `units` of `unit` per call; bench/record.py divides."""
    benchmark.extra_info.update(units=units, unit=unit)
    benchmark.pedantic(work, args=args, rounds=ROUNDS, warmup_rounds=2)
