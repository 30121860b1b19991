"""The keys of --port that say which VLANs a port is a member of: vlan=, or trunk= and native=. IEEE 802.1Q.

Where some port has such a key, one that has none is a trunk of all VLANs, and its frames without a tag are in VLAN 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastvhost.control.errors import UsageError

KEYS = ("vlan", "trunk", "native")
LEAST, MOST = 1, 4094
"""0 and 4095 are no VLANs (IEEE 802.1Q, table 9-2)."""
Ranges = tuple[tuple[int, int], ...]
"""First and last numbers, in order, with a gap between each two."""


@dataclass(frozen=True, slots=True)
class Vlans:
    """A port's VLANs, as its keys say."""

    access: int | None = None
    """The only one; its frames have no tag."""
    trunk: Ranges = ()
    """Those whose frames have one."""
    native: int | None = None
    """That of the trunk whose frames have none."""

    @property
    def untagged(self) -> int | None:
        """The VLAN of frames without a tag; None: they are dropped."""
        if not self.keys:
            return 0
        return self.native if self.access is None else self.access

    @property
    def tagged(self) -> Sequence[int] | None:
        """The VLANs of frames with a tag; None: they are dropped when they arrive."""
        if not self.keys:
            return range(LEAST, MOST + 1)
        return tuple(vlan for first, last in self.trunk for vlan in range(first, last + 1)) if self.trunk else None

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Its keys, as --port takes them. Empty: it has none."""
        trunk = "+".join(str(first) if first == last else f"{first}-{last}" for first, last in self.trunk)
        given = (("vlan", self.access), ("trunk", trunk or None), ("native", self.native))
        return tuple((key, str(value)) for key, value in given if value is not None)


NONE = Vlans()


def read(where: str, options: Mapping[str, str]) -> Vlans:
    """The VLANs that a port's keys ask for. where: what an error names. Raises UsageError."""
    access, native = (_number(where, key, options[key]) if key in options else None for key in ("vlan", "native"))
    trunk = _ranges(where, options["trunk"]) if "trunk" in options else ()
    if access is not None and (trunk or native is not None):
        other = "trunk" if trunk else "native"
        raise UsageError(
            f"{where}: vlan={access} makes it an access port, of one VLAN without tags, and {other}= a trunk; leave one"
            " out"
        )
    if native is not None and not trunk:
        raise UsageError(f"{where}: native={native} is a trunk's VLAN without tags; add trunk=, or write vlan={native}")
    if native is not None and not any(first <= native <= last for first, last in trunk):
        raise UsageError(
            f"{where}: native={native} is not in trunk={options['trunk']}; write trunk={native}+{options['trunk']}"
        )
    return Vlans(access, trunk, native)


def ports_without_keys(ports: Iterable[tuple[str, Vlans]]) -> str:
    """A sentence about ports without keys beside others with some; or an empty text. ports: names, and their VLANs."""
    known = list(ports)
    names = [name for name, vlans in known if not vlans.keys]
    if not names or len(names) == len(known):
        return ""
    return f"trunks of all VLANs, since they have no vlan= or trunk=, untagged frames in VLAN 0: {', '.join(names)}"


def _number(where: str, key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not LEAST <= int(text) <= MOST:
        raise UsageError(f"{where}: {key}={text}: no VLAN has this number; use {LEAST} to {MOST}")
    return int(text)


def _ranges(where: str, text: str) -> Ranges:
    """Of 10+20-29, in any order; numbers that stand twice count once."""
    vlans: set[int] = set()
    for part in text.split("+"):
        first, dash, last = part.partition("-")
        low = _number(where, "trunk", first)
        high = _number(where, "trunk", last) if dash else low
        if low > high:
            raise UsageError(f"{where}: trunk={text}: {part} is no range; write the lower number first, {last}-{first}")
        vlans.update(range(low, high + 1))
    ranges: list[tuple[int, int]] = []
    for vlan in sorted(vlans):
        first_of_run = ranges.pop()[0] if ranges and ranges[-1][1] == vlan - 1 else vlan
        ranges.append((first_of_run, vlan))
    return tuple(ranges)
