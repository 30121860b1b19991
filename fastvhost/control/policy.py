"""The keys of --port that every kind of port takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastvhost.control import vlans
from fastvhost.control.errors import UsageError
from fastvhost.control.vlans import NONE, Vlans

KEYS = ("name", *vlans.KEYS)
"""In the order in which they are printed."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Policy:
    """What forwarding does with a port, whatever its kind."""

    name: str
    vlans: Vlans = NONE

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Its keys, as --port takes them."""
        return (("name", self.name), *self.of_a_switch)

    @property
    def of_a_switch(self) -> tuple[tuple[str, str], ...]:
        """Those that need --forward learn."""
        return self.vlans.keys


def read(where: str, options: Mapping[str, str], default_name: str) -> Policy:
    """The policy that a port's keys ask for. where: what an error names. Raises UsageError."""
    return Policy(_name(where, options.get("name", default_name)), vlans.read(where, options))


def _name(where: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: '{name}' cannot be a port's name; add name= with letters, digits, '_', '.' or '-'")
    return name
