"""The attacks on rings and frames at ports of the broken mini back-end: with each bug, one that must notice it does.

Each in a process of its own, and none depends on how much time the machine has for it (stepped_mini).
"""

from __future__ import annotations

import pytest

from tests.hostile import catalogue
from tests.hostile.catalogue import CATALOGUE, name_of
from tests.hostile.seeded import AT_A_PORT, HARM, Pair, name_of_pair, without_bugs
from tests.hostile.stepped_mini import outcome


@pytest.mark.parametrize("case", without_bugs(AT_A_PORT), ids=name_of)
def test_without_a_bug_the_mini_back_end_stands(case: catalogue.Case) -> None:
    name, ring = case
    assert outcome("", CATALOGUE[name], ring, catalogue.beside(case)) == ""


@pytest.mark.parametrize("pair", AT_A_PORT, ids=name_of_pair)
def test_with_the_bug_the_attack_is_noticed(pair: Pair) -> None:
    bug, name, ring = pair
    seen = outcome(bug, CATALOGUE[name], ring, catalogue.beside((name, ring)))
    assert seen, f"with the bug {bug}, {name} passes"
    assert seen in HARM.get(bug, {seen})
