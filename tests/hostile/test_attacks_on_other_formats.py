"""The attacks of the catalogue on the ring formats on which test_attacks does not run them.

There all invariants about other ports are checked, too; here only the attack's result on its own port, and that nothing
of it is left. Nothing is measured. Those on rings and frames alone are run at a port of this process
instead (test_stepped_attacks).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.arena import Arena
from tests.hostile.catalogue import BRIEF, CATALOGUE, Case, name_of
from tests.hostile.conftest import BRIEF_ONES, Shared
from tests.hostile.rings import EVERY


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    shared = Shared(lambda beside: Arena(beside=beside, rates=False), BRIEF_ONES)
    yield shared
    shared.close()


@pytest.mark.parametrize("case", sorted(BRIEF, key=lambda case: EVERY.index(case[1])), ids=name_of)
def test_attack(case: Case, shared: Shared) -> None:
    name, ring = case
    shared.get(ring).run_briefly(CATALOGUE[name], ring)
