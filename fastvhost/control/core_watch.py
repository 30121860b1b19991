"""Watches whether workers have their cores to themselves: the kernel counts how long a thread waited for its core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

WAITING_PERCENT = 20.0
REMEDY = "other work runs there; move that away or choose another core with --cores"


@dataclass(slots=True)
class _Seen:
    time: float
    waited: int
    warned: bool = False


class CoreWatch:
    """Warns once that a worker waits for its core, and again only after it had the core to itself meanwhile."""

    def __init__(self, waited_ns: Callable[[int], int | None] | None = None) -> None:
        self._waited_ns = waited_ns or run_delay
        self._seen: dict[int, _Seen] = {}

    def check(self, workers: Iterable[tuple[str, int, int | None]], now: float) -> list[str]:
        """Warnings about (name, thread id, core or None), for the time since the last call."""
        warnings = []
        for name, thread, core in workers:
            waited = self._waited_ns(thread)
            if waited is None:
                continue
            before = self._seen.get(thread)
            if before is None:
                self._seen[thread] = _Seen(now, waited)
                continue
            seconds, elapsed = (waited - before.waited) / 1e9, max(now - before.time, 1e-3)
            percent = 100 * seconds / elapsed
            before.time, before.waited = now, waited
            if percent >= WAITING_PERCENT and not before.warned:
                where = "a core" if core is None else f"core {core}"
                # The kernel counts a wait when it ends, so it may have begun before the last call, and is no share of
                # this time.
                share = f"{percent:.0f} % of the time" if seconds <= elapsed else f"{seconds:.1f} s"
                warnings.append(f"{name} waited {share} for {where}: {REMEDY}")
            before.warned = percent >= (WAITING_PERCENT / 2 if before.warned else WAITING_PERCENT)
        return warnings


def run_delay(thread: int) -> int | None:
    """Nanoseconds a thread of ours was ready to run and did not, or None where the kernel does not count them."""
    return _schedstat(thread, 1)


def run_time(thread: int) -> int | None:
    """Nanoseconds it ran, or None."""
    return _schedstat(thread, 0)


def _schedstat(thread: int, column: int) -> int | None:
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[column])
    except (OSError, ValueError, IndexError):
        return None
