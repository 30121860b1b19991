"""What happens at the ports of a running wiring, as events: found by looking, so no event waits for a reader."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastvhost.control.port_unit import PortUnit
from fastvhost.control.wiring import Wiring

READY = ("rings", "first packet")
"""States of a port (`fastvhost show`) in which its guest's driver runs."""
TABLE_SECONDS = 1.0
"""Seconds between two looks at the forwarding table, which lists all of it where something was learned."""


class Happened(enum.StrEnum):
    """What an event tells."""

    PORT_UP = "port up"
    """Its other end takes frames."""
    PORT_DOWN = "port down"
    GUEST_READY = "guest ready"
    """Its guest's driver has set up its rings."""
    RING_BROKEN = "ring broken"
    """`detail` says which one, and why."""
    LEARNED = "address learned"
    MOVED = "address moved"
    """`detail` says from which port."""


class Event(NamedTuple):
    """Something that happened at a port."""

    what: Happened
    port: str
    """Its name."""
    detail: str = ""
    address: str = ""
    """As 52:54:00:12:34:56, of LEARNED and MOVED."""
    vlan: int = 0


class _Seen(NamedTuple):
    """A port at one moment."""

    up: bool = False
    ready: bool = False
    broken: Mapping[int, str] = {}


class Observer:
    """Finds what happened since it looked last. At first everything is down, and the table is empty."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._ports: dict[PortUnit, _Seen] = {}
        self._learned: Mapping[tuple[str, int], int] = {}
        self._outcomes = 0
        self._next_table = 0.0

    def look(self) -> list[Event]:
        """What happened since the last call: ports first, then addresses. What came and went meanwhile is not told."""
        units = self._wiring.ports
        now = {unit: _seen(unit) for unit in units}
        events = [event for unit in units for event in _at_port(unit, self._ports.get(unit, _Seen()), now[unit])]
        gone = [Event(Happened.PORT_DOWN, unit.spec.name, "removed") for unit, was in self._ports.items()
                if was.up and unit not in now]  # fmt: skip
        self._ports = now
        return [*gone, *events, *self._at_table()]

    def _at_table(self) -> list[Event]:
        if self._wiring.bridge is None or time.monotonic() < self._next_table:
            return []
        table, names = self._wiring.bridge.table, {unit.number: unit.spec.name for unit in self._wiring.ports}
        counts = [table.counters(number) for number in names]
        outcomes = sum(one["learned"] + one["moved"] for one in counts)
        if outcomes == self._outcomes:
            return []
        self._outcomes, self._next_table = outcomes, time.monotonic() + TABLE_SECONDS
        rows = [row for row in table.rows() if row.port in names]
        before, self._learned = self._learned, {(row.address, row.vlan): row.port for row in rows}
        return list(_at_addresses(before, self._learned, names))


def _seen(unit: PortUnit) -> _Seen:
    about: Mapping[str, Any] = unit.service.describe() if unit.service else {}
    broken = {ring["index"]: ring["broken"] for ring in about.get("rings", ()) if ring["broken"]}
    return _Seen(unit.port.link_up, about.get("state") in READY, broken)


def _at_port(unit: PortUnit, was: _Seen, now: _Seen) -> Iterator[Event]:
    name = unit.spec.name
    if now.up and not was.up:
        yield Event(Happened.PORT_UP, name)
    if now.ready and not was.ready:
        yield Event(Happened.GUEST_READY, name)
    for index, why in now.broken.items():
        if was.broken.get(index) != why:
            yield Event(Happened.RING_BROKEN, name, f"ring {index}: {why}")
    if was.up and not now.up:
        yield Event(Happened.PORT_DOWN, name)


def _at_addresses(
    before: Mapping[tuple[str, int], int], now: Mapping[tuple[str, int], int], names: Mapping[int, str]
) -> Iterator[Event]:
    for (address, vlan), number in now.items():
        was = before.get((address, vlan))
        if was is None:
            yield Event(Happened.LEARNED, names[number], "", address, vlan)
        elif was != number:
            yield Event(Happened.MOVED, names[number], f"from port {names.get(was, 'that is gone')}", address, vlan)
