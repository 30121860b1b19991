"""Every attack of the catalogue against fastvhost, one process for all attacks of a ring format, with an honest pair.

All guests have rings of the case's format: the attacker if it has any, its victim, the honest pair, and whoever comes
afresh. Mixed formats are what the sanitized build and the broken back-end meet. An attack is run here on one of its
formats, and on all of them in test_stepped_attacks, or on the others in test_attacks_on_other_formats.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.hostile.catalogue import CATALOGUE, WHOLE, Case, name_of
from tests.hostile.conftest import Shared
from tests.hostile.rings import EVERY

pytestmark = pytest.mark.alone

BY_RING = sorted(WHOLE, key=lambda case: (EVERY.index(case[1]), CATALOGUE[case[0]].lasts))
"""Those that last follow on one another, since the flood that measures them takes a second to start."""


@pytest.fixture(scope="module")
def ended() -> set[Any]:
    """The kinds of things that fastvhost had when it was ended, by the function that sent them."""
    return set()


@pytest.mark.parametrize("case", BY_RING, ids=name_of)
def test_attack(case: Case, shared_product: Shared, ended: set[Any]) -> None:
    name, ring = case
    entry, arena = CATALOGUE[name], shared_product.get(ring)
    arena.run(entry, ring)
    holds = entry.run.__code__, arena.in_hand
    if entry.ends and arena.in_hand and holds not in ended:
        ended.add(holds)
        arena.ends_after(entry, ring)
