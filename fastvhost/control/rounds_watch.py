"""Watches whether every worker makes rounds. One that has nothing to do does, too: it looks up every 20 ms (idle)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

STUCK_SECONDS = 5.0
"""Seconds without a round that are told of: a page from a slow disk may well take one."""
LONGEST_GAP = 1.0
"""The most seconds between two looks that count: where all of this process was stopped, its workers were, too."""


class Rounds(Protocol):
    """fastvhost.dataplane.worker.Worker."""

    @property
    def rounds(self) -> int: ...


class Working(Protocol):
    """fastvhost.control.worker_thread.WorkerThread."""

    @property
    def name(self) -> str: ...
    @property
    def worker(self) -> Rounds: ...
    def lacks_core(self) -> bool: ...


class Stuck(NamedTuple):
    """What is to be told of a worker."""

    worker: str
    seconds: float
    """Without a round; 0 where it goes on."""
    lacks_core: bool = False
    """Other work had its core in the end; else it waits in the kernel, or loops."""


@dataclass(slots=True)
class _Watched:
    thread: Working
    rounds: int
    still: float = 0.0
    told: bool = False
    excused: bool = False
    """It made a round since take() was True last, or had no core."""


class RoundsWatch:
    """For the main thread, which looks every half second."""

    def __init__(self, threads: Iterable[Working], now: float, told_after: float = STUCK_SECONDS) -> None:
        self._watched = [_Watched(thread, thread.worker.rounds) for thread in threads]
        self._looked = now
        self._told_after = told_after

    def look(self, now: float) -> list[Stuck]:
        """Workers that got stuck, or go on again, since the last look."""
        gap, self._looked = min(now - self._looked, LONGEST_GAP), now
        found = []
        for one in self._watched:
            rounds = one.thread.worker.rounds
            if rounds != one.rounds:
                one.rounds, one.still, one.excused = rounds, 0.0, True
                if one.told:
                    one.told = False
                    found.append(Stuck(one.thread.name, 0.0))
                continue
            one.still += gap
            lacks_core = one.thread.lacks_core()
            one.excused |= lacks_core
            if one.still >= self._told_after and not one.told:
                one.told = True
                found.append(Stuck(one.thread.name, one.still, lacks_core))
        return found

    def take(self) -> bool:
        """Whether every worker was seen to make a round, or to have no core to do so, since this was True last.

        To start fwd anew gives no worker a core, and takes the others from their guests.
        """
        if not all(one.excused for one in self._watched):
            return False
        for one in self._watched:
            one.excused = False
        return True

    @property
    def stuck(self) -> list[str]:
        """The workers that make no rounds now."""
        return [one.thread.name for one in self._watched if one.told]
