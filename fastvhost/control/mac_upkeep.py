"""The forwarding table second by second: time, the removal of what is too old, what flaps, and counts.

The main thread does it. Workers go on meanwhile: the table's lock is taken for the removal of one entry at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("fastvhost")

SWEEP_SECONDS = 8
"""Until each entry was looked at once. For so long an entry may count in its port's limit that no longer answers."""
SAY_SECONDS = 60.0
"""Between two log lines about addresses that flap."""
TAKEN_IN = frozenset({"refreshed", "learned", "moved"})
"""What came of learning where the address was learned."""


def learning(bridge: Any, number: int) -> dict[str, Any] | None:
    """What a port learned, for `stats` and `show`. bridge: None where fwd forwards along wires."""
    if bridge is None:
        return None
    counts = bridge.table.counters(number)
    addresses, evicted = counts.pop("entries"), counts.pop("evicted")
    return {
        "addresses": addresses,
        "learned": counts["learned"],
        "moved": counts["moved"],
        "evicted": evicted,
        "refused": {reason: n for reason, n in counts.items() if reason not in TAKEN_IN},
    }


class MacUpkeep:
    """name: of the port with a number."""

    def __init__(self, table: Any, name: Callable[[int], str]) -> None:
        self._table = table
        self._name = name
        self._second = -1
        self._flapped = 0
        """Told of so many."""
        self._silent_until = float("-inf")

    def look(self, now: float) -> None:
        """Call it often; it does its work once a second. now: time.monotonic()."""
        if int(now) == self._second:
            return
        self._second = int(now)
        self._table.set_tick(self._second)
        self._table.sweep(self._table.buckets // SWEEP_SECONDS)
        self._flapped = min(self._flapped, self._table.flapped)  # a port that leaves takes its counts along
        if self._table.flapped != self._flapped and now >= self._silent_until:
            self._say(now)

    def _say(self, now: float) -> None:
        times, self._flapped = self._table.flapped - self._flapped, self._table.flapped
        self._silent_until = now + SAY_SECONDS
        last = self._table.last_flapping
        if last is None:
            return
        more = f" ({times} such pauses since the last of these lines)" if times > 1 else ""
        log.warning(
            "%s in VLAN %d comes from port %s and port %s in turns; it stays at %s for a second%s. "
            "Two guests have this address, or frames come back by a second way: give each guest an address of its own, "
            "or take one way out",
            last.address, last.vlan, self._name(last.port), self._name(last.other), self._name(last.port), more,
        )  # fmt: skip
