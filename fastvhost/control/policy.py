"""The keys of --port that every kind of port takes: its name, and what forwarding does with its frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastvhost.control import mac_address, units, vlans
from fastvhost.control.errors import UsageError
from fastvhost.control.vlans import NONE, Vlans

OF_A_SWITCH = (*vlans.KEYS, "macs", "max-macs", "isolate", "storm", "mirror")
"""Keys that need --forward learn."""
KEYS = ("name", *OF_A_SWITCH, "rate", "pps", "burst")
"""In the order in which they are printed."""
USAGE = (
    "name=NAME",
    "rate=BITS, pps=N    what is taken from it in a second (1Gbit, 100k); burst=BYTES at once",
    "macs=MAC+MAC        learn: the only source addresses that its frames may have",
    "max-macs=N          learn: the most addresses that are learned of it; default 1024",
    "isolate=GROUP       learn: ports of one group do not reach each other",
    "storm=N[+multicast] learn: broadcast and unknown destinations from it a second, or off; default 1000",
    "mirror=NAME         learn: that port gets a copy of all that this one sends and receives",
)
"""Lines of the help of fwd."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_MACS = 1024
MOST_MACS = 1 << 20
LEAST_RATE, MOST_RATE = 8_000, 10**12
"""Bits a second: a kilobyte, and more than any machine moves."""
MOST_PPS = 10**9
LEAST_BURST, MOST_BURST = 64, 1 << 30
"""Bytes."""
STORM = 1000
OFF = "off"
MULTICAST = "+multicast"


@dataclass(frozen=True, slots=True)
class Policy:
    """What forwarding does with a port, whatever its kind."""

    name: str
    vlans: Vlans = NONE
    macs: tuple[str, ...] = ()
    """The only source addresses that its frames may have; empty: any."""
    max_macs: int = MAX_MACS
    """The most addresses that are learned of it."""
    isolate: str = ""
    """The group whose ports do not reach each other; empty: none."""
    storm: int | None = STORM
    """Frames a second from it that go to all ports; None: any number."""
    storm_multicast: bool = False
    """Whether frames to multicast addresses count among those."""
    mirror: str = ""
    """The port that gets a copy of all that this one sends and receives; empty: none."""
    rate: int = 0
    """Bits a second that are taken from it; 0: any number."""
    pps: int = 0
    """Frames a second that are taken from it; 0: any number."""
    burst: int = 0
    """Bytes that may come at once, beyond the rate; 0: the default (dataplane/forward/police)."""

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Its keys, as --port takes them; those that were not given, or as the defaults are, are left out."""
        return (("name", self.name), *self.of_a_switch, *self.limits)

    @property
    def of_a_switch(self) -> tuple[tuple[str, str], ...]:
        """Those that need --forward learn."""
        storm = (OFF if self.storm is None else units.format_per_second(self.storm)) + MULTICAST * self.storm_multicast
        given = (
            ("macs", "+".join(self.macs)),
            ("max-macs", str(self.max_macs) if self.max_macs != MAX_MACS else ""),
            ("isolate", self.isolate),
            ("storm", storm if storm != units.format_per_second(STORM) else ""),
            ("mirror", self.mirror),
        )
        return (*self.vlans.keys, *((key, value) for key, value in given if value))

    @property
    def limits(self) -> tuple[tuple[str, str], ...]:
        """Those that bound what is taken from it."""
        rate = (("rate", units.format_bit_rate(self.rate)),) if self.rate else ()
        pps = (("pps", units.format_per_second(self.pps)),) if self.pps else ()
        return (*rate, *pps, *((("burst", units.format_size(self.burst)),) if self.burst else ()))


def read(where: str, options: Mapping[str, str], default_name: str) -> Policy:
    """The policy that a port's keys ask for. where: what an error names. Raises UsageError."""
    storm, multicast = _storm(where, options.get("storm", str(STORM)))
    macs = tuple(_macs(where, options["macs"])) if "macs" in options else ()
    policy = Policy(
        _name(where, options.get("name", default_name)),
        vlans.read(where, options),
        macs=macs,
        max_macs=units.number(f"{where}: max-macs", options.get("max-macs", str(MAX_MACS)), 1, MOST_MACS),
        isolate=_group(where, options["isolate"]) if "isolate" in options else "",
        storm=storm,
        storm_multicast=multicast,
        mirror=options.get("mirror", ""),
        rate=units.bit_rate(f"{where}: rate", options["rate"], LEAST_RATE, MOST_RATE) if "rate" in options else 0,
        pps=units.per_second(f"{where}: pps", options["pps"], 1, MOST_PPS) if "pps" in options else 0,
        burst=units.size(f"{where}: burst", options["burst"], LEAST_BURST, MOST_BURST) if "burst" in options else 0,
    )
    if policy.burst and not policy.rate:
        raise UsageError(f"{where}: burst={options['burst']} says how far a rate may be exceeded; give rate=, too")
    if len(policy.macs) > policy.max_macs:
        raise UsageError(
            f"{where}: macs= has {len(policy.macs)} addresses, max-macs={policy.max_macs} allows fewer; raise max-macs="
        )
    if "mirror" in options and not policy.mirror:
        raise UsageError(f"{where}: mirror= names no port; write mirror=NAME, or leave it out")
    if policy.mirror == policy.name:
        raise UsageError(f"{where}: mirror={policy.mirror} is the port itself; name another port to send the copies to")
    return policy


def _name(where: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: '{name}' cannot be a port's name; add name= with letters, digits, '_', '.' or '-'")
    return name


def _group(where: str, group: str) -> str:
    if not NAME.fullmatch(group):
        raise UsageError(f"{where}: isolate={group}: not a group's name; use letters, digits, '_', '.' or '-'")
    return group


def _macs(where: str, text: str) -> list[str]:
    macs: list[str] = []
    for part in text.split("+"):
        mac = mac_address.of_one_device(where, "macs", part)
        if mac in macs:
            raise UsageError(f"{where}: macs={text}: {mac} stands twice; give it once")
        macs.append(mac)
    return macs


def _storm(where: str, text: str) -> tuple[int | None, bool]:
    """Frames a second, and whether multicast counts."""
    number, multicast = text.removesuffix(MULTICAST), text.endswith(MULTICAST)
    if text == OFF:
        return None, False
    if number == OFF:
        raise UsageError(f"{where}: storm={text}: off limits nothing, so '{MULTICAST}' says nothing; leave it out")
    return units.per_second(f"{where}: storm", number, 1, MOST_PPS), multicast
