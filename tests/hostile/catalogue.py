"""All attacks, gathered from the files that define them, which are called attacks_*."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from tests.hostile.attack import CATALOGUE
from tests.hostile.rings import FORMATS

for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if found.name.startswith("attacks_"):
        import_module(f"tests.hostile.{found.name}")

Case = tuple[str, str]
"""An attack and a ring format."""
CASES = [(entry.name, ring) for entry in CATALOGUE.values() for ring in entry.rings]


def once_per_layout(case: Case) -> bool:
    name, ring = case
    rings = CATALOGUE[name].rings
    promised = FORMATS[ring].in_order and not FORMATS[rings[0]].in_order
    beside_another = promised and ring.removesuffix("_in_order") in rings
    return ring == rings[0] or (ring == "packed" if CATALOGUE[name].lasts else not beside_another)


LAYOUTS = [case for case in CASES if once_per_layout(case) and not CATALOGUE[case[0]].beyond_mini]
"""For a back-end that is slow: IN_ORDER beside another format only where it is what the attack is about, and what lasts
not on every format."""


def beside(case: Case) -> str:
    """The ring format of the guests beside the attacker, on a back-end whose rings are broken: not the attacker's, or

    they would meet its bugs by themselves; unless the attacker has no rings, when theirs are what it is about.
    """
    name, ring = case
    return ring if CATALOGUE[name].ringless else "split"


def name_of(case: Case) -> str:
    """How a test is called."""
    name, ring = case
    return name if ring == "split" else f"{name}-{ring}"


__all__ = ["CASES", "CATALOGUE", "LAYOUTS", "Case", "beside", "name_of"]
