"""Drops as they happen: what drops now, and for a minute what dropped lately."""

from __future__ import annotations

from dataclasses import dataclass

from fastvhost.cli.live.rows import DropRow, Reading

KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RecentDrop:
    """A reason for which frames were seen to drop."""

    row: DropRow
    ended: float | None
    """Seconds since the last reading in which it happened; None: it does now."""


class RecentDrops:
    """Remembers them from reading to reading."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], tuple[DropRow, float]] = {}
        self._noted = 0.0

    def note(self, reading: Reading, now: float) -> None:
        """now: seconds of a clock that does not jump."""
        if reading.seconds:
            there = {(row.port, row.side, row.reason) for row in reading.drops}
            recent = {key: kept for key, kept in self._seen.items() if now - kept[1] <= KEPT_SECONDS and key in there}
            dropping = {(row.port, row.side, row.reason): (row, now) for row in reading.drops if row.rate}
            self._seen = recent | dropping
        self._noted = now

    def list(self) -> list[RecentDrop]:
        """First what happens now, the most frames first; then what ended last."""
        found = [RecentDrop(row, self._noted - at or None) for row, at in self._seen.values()]
        return sorted(found, key=lambda one: (one.ended or 0.0, -(one.row.rate or 0.0)))
