"""An arena whose ports are those of one switch, `fwd --forward learn`. Each pair is a VLAN of its own.

So all of the arena keeps its meaning: what one of a pair sends, the other one gets, and nobody else. One worker, one
table and one set of rules serve all pairs; the honest stream has the very addresses that are in the attacker's frames.
What crosses from the attacked pair into another one is a frame that nobody sent there, which the guests report.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.hostile.arena import Arena
from tests.hostile.backend import KEYS, PORTS

FLOODS = "storm=off"
"""A pair may flood as much as it likes: of most frames, nobody has the address."""


def keys_of(vlans: Mapping[str, str]) -> dict[str, str]:
    """Of each port, with these keys about VLANs."""
    return {name: ",".join(filter(None, [vlans[name], FLOODS, KEYS[name]])) for name in PORTS}


VLANS = {name: f"vlan={10 * (1 + number // 2)}" for number, name in enumerate(PORTS)}


class SwitchedArena(Arena):
    """Frames that find no room are dropped, and so are those with tags."""

    forward = "learn"
    holds = False
    takes_tags = False
    keys = keys_of(VLANS)


class LeakyArena(SwitchedArena):
    """With a hole: an honest port is a member of the attacked pair's VLAN as well."""

    keys = keys_of({**VLANS, "c": "trunk=10+20,native=20"})
