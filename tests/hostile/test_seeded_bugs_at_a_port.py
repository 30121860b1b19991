"""The attacks on rings and frames at ports of the broken mini back-end: with each bug, one that must notice it does.

Each in a process of its own, and none depends on how much time the machine has for it (stepped_mini).
"""

from __future__ import annotations

import pytest

from tests.hostile import catalogue
from tests.hostile.catalogue import CATALOGUE, name_of
from tests.hostile.seeded import AT_A_PORT, HARM, Pair, name_of_pair, one_of_each, without_bugs
from tests.hostile.stepped_mini import outcome


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One of each kind, with the bug and without; with --long every attack with every bug, on each ring format."""
    pairs = AT_A_PORT if metafunc.config.getoption("--long") else one_of_each(AT_A_PORT)
    if "pair" in metafunc.fixturenames:
        metafunc.parametrize("pair", pairs, ids=name_of_pair)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", without_bugs(pairs), ids=name_of)


def test_without_a_bug_the_mini_back_end_stands(case: catalogue.Case) -> None:
    name, ring = case
    assert outcome("", CATALOGUE[name], ring, catalogue.beside(case)) == ""


def test_with_the_bug_the_attack_is_noticed(pair: Pair) -> None:
    bug, name, ring = pair
    seen = outcome(bug, CATALOGUE[name], ring, catalogue.beside((name, ring)))
    assert seen, f"with the bug {bug}, {name} passes"
    assert seen in HARM.get(bug, {seen})
