"""Every attack of the catalogue against fastvhost, one process for all of a ring format, an honest pair beside it.

All guests have rings of the case's format: the attacker if it has any, its victim, the honest pair, and whoever comes
afresh. Mixed formats are what the sanitized build and the broken back-end meet.
"""

from __future__ import annotations

import pytest

from tests.hostile.catalogue import CASES, CATALOGUE, Case, name_of
from tests.hostile.conftest import Shared
from tests.hostile.rings import EVERY

pytestmark = pytest.mark.alone

BY_RING = sorted(CASES, key=lambda case: EVERY.index(case[1]))


@pytest.mark.parametrize("case", BY_RING, ids=name_of)
def test_attack(case: Case, shared_product: Shared) -> None:
    name, ring = case
    entry, arena = CATALOGUE[name], shared_product.get(ring)
    arena.run(entry, ring)
    if entry.ends and ring == entry.rings[0]:
        arena.ends_after(entry, ring)
