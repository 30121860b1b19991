"""Kinds of port, one file each. Nothing outside this folder names a kind; a new file here is a new kind."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from fastvhost.control.port_spec import Kind


def _found() -> dict[str, Kind]:
    modules = [import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    kinds: list[Kind] = [module.KIND for module in modules]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: (kind.place, kind.name))}


KINDS: Mapping[str, Kind] = _found()
"""By name, in the order in which they are listed."""
(BARE,) = (kind for kind in KINDS.values() if kind.bare_suffix)
"""The kind of a bare path."""
