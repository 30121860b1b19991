"""Every attack of the catalogue against fastvhost, one process for all, an honest pair of ports beside it."""

from __future__ import annotations

import pytest

from tests.hostile.arena import Arena
from tests.hostile.catalogue import CASES, CATALOGUE, Case, name_of


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_attack(case: Case, arena: Arena) -> None:
    name, ring = case
    arena.run(CATALOGUE[name], ring)
