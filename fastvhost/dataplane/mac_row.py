"""An entry of the forwarding table, for those who list them."""

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
