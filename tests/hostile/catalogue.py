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


def once_per_layout(case: Case) -> bool:
    name, ring = case
    rings = CATALOGUE[name].rings
    beside_another = FORMATS[ring].in_order and ring.removesuffix("_in_order") in rings
    return ring == rings[0] or not (CATALOGUE[name].lasts or beside_another)


LAYOUTS = [case for case in CASES if once_per_layout(case)]
"""For a back-end that returns chains one by one anyway, and is slow: without those that only promise IN_ORDER beside
another, and with what lasts on one ring format only."""


def name_of(case: Case) -> str:
    """How a test is called."""
    name, ring = case
    return name if ring == "split" else f"{name}-{ring}"


__all__ = ["CASES", "CATALOGUE", "LAYOUTS", "SOURCES", "Case", "name_of"]
