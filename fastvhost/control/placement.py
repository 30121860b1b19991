"""Watches whether threads stay on their cores. A cpuset that shrinks moves them; when it grows, they may go back.

cpuset(7); cgroups, "Cpuset Interface Files". Kernels before 6.2 leave a thread where it was moved to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from fastvhost.control import affinity
from fastvhost.control.host import may_pin
from fastvhost.control.units import format_cores


class Place(NamedTuple):
    """Threads that belong together, and the cores that they were given."""

    name: str
    threads: tuple[int, ...]
    cores: frozenset[int]


class Affinity(NamedTuple):
    """How the kernel is asked about threads and cores; tests have fakes."""

    of: Callable[[int], frozenset[int]] = affinity.of
    may_pin: Callable[[int], bool] = may_pin
    pin: Callable[[int, frozenset[int]], str] = affinity.pin


class PlacementWatch:
    """Reports once that threads were moved off their cores, and once that they are back."""

    def __init__(self, kernel: Affinity | None = None) -> None:
        self._kernel = kernel or Affinity()
        self._moved: dict[str, bool] = {}
        """By name: whether somebody moved it (taskset); that is not undone."""

    def check(self, places: Iterable[Place]) -> list[str]:
        """Returns a sentence about each place whose threads were moved, or are back, since the last call."""
        return [said for place in places if place.threads and (said := self._look(place))]

    def _look(self, place: Place) -> str:
        now = self._kernel.of(place.threads[0])
        if not now:
            return ""
        if now & place.cores:
            back = self._moved.pop(place.name, None) is not None
            return f"{place.name} is back on core {format_cores(now)}" if back else ""
        again = frozenset(core for core in place.cores if self._kernel.may_pin(core))
        if place.name not in self._moved:
            self._moved[place.name] = bool(again)
            where = f"{place.name} was moved from core {format_cores(place.cores)} to {format_cores(now)}"
            if again:
                return f"{where} by somebody who may; it stays there"
            return (
                f"{where}: the cpuset of this process has become narrower (or a core is offline); widen it "
                "(AllowedCPUs= of the unit), or choose another core with --cores"
            )
        if again and not self._moved[place.name]:
            for thread in place.threads:
                self._kernel.pin(thread, again)
        return ""
