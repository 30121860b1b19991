"""What the forwarding table tells: its entries, and an address that flaps."""

from __future__ import annotations

from typing import NamedTuple


class MacRow(NamedTuple):
    """Where an address is."""

    address: str
    """As 52:54:00:12:34:56."""
    vlan: int
    port: int
    """The number of its port."""
    age: int
    """Seconds since a frame from it came."""
    static: bool
    """Put there by an operator: not learned, not aged, and moved by nobody."""


class Flapping(NamedTuple):
    """An address that moved too often within a second, so that it stays where it is for the next one."""

    address: str
    vlan: int
    port: int
    """The number of the port that it stays at."""
    other: int
    """Where it was seen as well."""
