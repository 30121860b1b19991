"""All attacks, gathered from the files that define them."""

from __future__ import annotations

from tests.hostile import (
    attacks_costly,
    attacks_fds,
    attacks_flipped,
    attacks_frame,
    attacks_legal,
    attacks_memory,
    attacks_merge,
    attacks_message,
    attacks_order,
    attacks_packed,
    attacks_packed_setup,
    attacks_receive,
    attacks_ring,
    attacks_sustained,
)
from tests.hostile.attack import CATALOGUE
from tests.hostile.rings import FORMATS

SOURCES = (
    attacks_ring,
    attacks_packed,
    attacks_packed_setup,
    attacks_order,
    attacks_receive,
    attacks_frame,
    attacks_legal,
    attacks_message,
    attacks_fds,
    attacks_memory,
    attacks_merge,
    attacks_costly,
    attacks_flipped,
    attacks_sustained,
)

Case = tuple[str, str]
"""An attack and a ring format."""
CASES = [(entry.name, ring) for entry in CATALOGUE.values() for ring in entry.rings]
IN_ORDER = {ring for ring, layout in FORMATS.items() if layout.in_order}
LAYOUTS = [
    (name, ring)
    for name, ring in CASES
    if ring not in IN_ORDER or ring.removesuffix("_in_order") not in CATALOGUE[name].rings or CATALOGUE[name].lasts
]
"""Without those that only promise IN_ORDER beside another: it changes what a driver does, not what a device may."""


def name_of(case: Case) -> str:
    """How a test is called."""
    name, ring = case
    return name if ring == "split" else f"{name}-{ring}"


__all__ = ["CASES", "CATALOGUE", "LAYOUTS", "SOURCES", "Case", "name_of"]
