"""The attacks on rings and frames at a port of this process, on every ring format.

What each must lead to on its own port, what is written in memory, that its peer has nothing of it, and that all frames
add up. One of the formats is also that of a running fwd, with everything that others must not notice (test_attacks).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.catalogue import CATALOGUE, STEPPED, Case, name_of
from tests.hostile.stepped_scene import check_unmapped, run

OTHERS = [case for case in STEPPED if CATALOGUE[case[0]].about != "rules"]
"""But those of the table of rules, which has a test of its own."""


@pytest.fixture(scope="module", autouse=True)
def unmapped() -> Iterator[None]:
    yield
    check_unmapped()


@pytest.mark.parametrize("case", OTHERS, ids=name_of)
def test_attack(case: Case) -> None:
    name, ring = case
    run(CATALOGUE[name].run, ring)
