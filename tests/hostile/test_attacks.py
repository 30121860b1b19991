"""Every attack of the catalogue against fastvhost, one process for all, an honest pair of ports beside it."""

from __future__ import annotations

import pytest

from tests.hostile.arena import Arena
from tests.hostile.catalogue import CATALOGUE


@pytest.mark.parametrize("name", CATALOGUE)
def test_attack(name: str, arena: Arena) -> None:
    arena.run(CATALOGUE[name])
