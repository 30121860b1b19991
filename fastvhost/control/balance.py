"""Spreads what ports send over the workers by what it costs them, and moves some of it only where that pays.

A share of a port's queue pairs moves as a whole: what one flow needs is never divided. Once a second the time that each
share took of its worker is looked at. A move is tried on paper first: it must take enough off the worker that has most
to do, and the same move must come out twice in a row, so that a burst moves nothing.

What a worker has to do is measured against the time in which it had its core: one that shares it with other work has no
time left long before it is busy all day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LOOK_SECONDS = 1.0
BUSY = 0.4
"""Of the time in which a worker has its core, which it must use for frames before something of its is moved."""
GAIN = 0.1
"""Of that time, by which the worker with most to do must get less."""
LEAST_HAD = 0.05
"""Of its core, which each worker is taken to have: the kernel may count a wait later than it was."""
REST_SECONDS = 10.0
"""In which what was moved is not moved again."""


@dataclass(frozen=True, slots=True)
class ShareLoad:
    """A share of what a port sends: which worker has it, and which part of a whole core it takes."""

    port: str
    share: int
    worker: int
    busy: float


@dataclass(frozen=True, slots=True)
class Move:
    """One share to another worker, and what both of them have to do before and after that, in parts of their time."""

    port: str
    share: int
    worker: int
    target: int
    before: tuple[float, float]
    after: tuple[float, float]

    def sentence(self, names: Sequence[str]) -> str:
        """For the log. names: of the workers."""
        what = f"port {self.port}" + (f", share {self.share}" if self.share else "")
        told = " and ".join(f"{one:.0%}" for one in self.before), " and ".join(f"{one:.0%}" for one in self.after)
        return f"{what}: {names[self.target]} does it instead of {names[self.worker]} (busy {told[1]}, not {told[0]})"


def best(
    loads: Sequence[ShareLoad], had: Sequence[float], resting: frozenset[tuple[str, int]] = frozenset()
) -> Move | None:
    """The move that takes most off the worker with most to do; None where none pays. resting: what stays.

    had: by worker, the part of the time in which it had its core. Of several moves that come to the same, the one of
    the least load.
    """
    totals = [0.0] * len(had)
    for load in loads:
        totals[load.worker] += load.busy / had[load.worker]
    full = max(range(len(had)), key=totals.__getitem__)
    target = min(range(len(had)), key=totals.__getitem__)
    if totals[full] < BUSY or target == full:
        return None
    there = {load.port for load in loads if load.worker == target}
    moves = [
        Move(
            load.port, load.share, full, target,
            (totals[full], totals[target]),
            (totals[full] - load.busy / had[full], totals[target] + load.busy / had[target]),
        )
        for load in loads
        # A port's shares are its pairs spread over workers: none gets two of them.
        if load.worker == full and load.port not in there and (load.port, load.share) not in resting
    ]  # fmt: skip
    worth = min(moves, key=_weight, default=None)
    return worth if worth and totals[full] - max(worth.after) >= GAIN else None


def _weight(move: Move) -> tuple[float, float, str, int]:
    return round(max(move.after), 3), round(move.before[0] - move.after[0], 3), move.port, move.share


class Balance:
    """Looks once a second.

    read: port, share and worker of each load, and its seconds so far; nothing where that is not known just now.
    waits: by worker, the seconds so far in which it had no core to run on. move: carries one out, or returns False.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[tuple[str, int, int], float]],
        waits: Callable[[], Sequence[float]],
        move: Callable[[Move], bool],
    ) -> None:
        self._read, self._waits = read, waits
        self._move = move
        self._seen: Mapping[tuple[str, int, int], float] = {}
        self._waited: Sequence[float] = ()
        self._looked = 0.0
        self._wanted: tuple[str, int, int] | None = None
        self._rests: dict[tuple[str, int], float] = {}

    def look(self, now: float) -> Move | None:
        """Call it often; it does its work once a second. now: time.monotonic(). Returns what was moved."""
        passed = now - self._looked
        if passed < LOOK_SECONDS:
            return None
        seen, before = self._read(), self._seen
        if not seen:
            return None
        waited, waited_before = self._waits(), self._waited
        self._seen, self._looked, self._waited = seen, now, waited
        if not before:
            return None
        had = [
            min(max(1 - (late - earlier) / passed, LEAST_HAD), 1.0)
            for late, earlier in zip(waited, waited_before, strict=True)
        ]
        # What another worker has now began at 0 there.
        loads = [ShareLoad(*key, (seconds - before.get(key, 0.0)) / passed) for key, seconds in seen.items()]
        self._rests = {what: until for what, until in self._rests.items() if until > now}
        move = best(loads, had, frozenset(self._rests))
        wanted = (move.port, move.share, move.target) if move else None
        twice, self._wanted = wanted == self._wanted, wanted
        if move is None or not twice or not self._move(move):
            return None
        self._wanted = None
        self._rests[move.port, move.share] = now + REST_SECONDS
        return move
