"""All attacks, gathered from the files that define them, which are called attacks_*."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from tests.hostile.attack import CATALOGUE

for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if found.name.startswith("attacks_"):
        import_module(f"tests.hostile.{found.name}")

Case = tuple[str, str]
"""An attack and a ring format."""
CASES = [(entry.name, ring) for entry in CATALOGUE.values() for ring in entry.rings]


WHOLE = [
    (entry.name, ring)
    for number, entry in enumerate(CATALOGUE.values())
    for at, ring in enumerate(entry.rings)
    if entry.lasts or at == number % len(entry.rings)
]
"""Cases that run with every invariant: lasting attacks on all their formats, others on one format each, in turn."""
STEPPED = [case for case in CASES if CATALOGUE[case[0]].stepped]
"""At a port of a test's own process, on all formats."""
BRIEF = [case for case in CASES if case not in {*WHOLE, *STEPPED}]
"""The other cases: only the attack's own expectation, and the invariants about its own port."""


def in_turn(cases: list[Case]) -> list[Case]:
    """One of these cases of each attack, on one ring format after the other."""
    rings: dict[str, list[str]] = {}
    for name, ring in cases:
        rings.setdefault(name, []).append(ring)
    return [(name, formats[number % len(formats)]) for number, (name, formats) in enumerate(rings.items())]


def beside(case: Case) -> str:
    """The ring format of the guests beside the attacker on a back-end with ring bugs.

    Not the attacker's format, since honest guests would meet the bug, too; except where the attacker has no rings.
    """
    name, ring = case
    return ring if CATALOGUE[name].ringless else "split"


def name_of(case: Case) -> str:
    """How a test is called."""
    name, ring = case
    return name if ring == "split" else f"{name}-{ring}"


__all__ = ["BRIEF", "CASES", "CATALOGUE", "STEPPED", "WHOLE", "Case", "beside", "in_turn", "name_of"]
