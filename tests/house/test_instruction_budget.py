"""The instructions that a forwarded frame may cost, counted by callgrind: the gate on the packet path's speed."""

from __future__ import annotations

import pytest

from bench.instructions import CASES, Case, count

# With a budget that is much too high the next regression would pass.
SLACK = 0.90
TWICE = 5
"""Cases that are counted twice."""


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    return count()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_frame_stays_within_its_budget(counted: dict[str, float], case: Case) -> None:
    assert counted[case.name] <= case.budget


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_budget_is_lowered_when_frames_get_cheaper(counted: dict[str, float], case: Case) -> None:
    assert counted[case.name] >= case.budget * SLACK, f"set the budget of {case.name} in bench/instructions.py anew"


def test_counting_twice_gives_the_same_figures(counted: dict[str, float]) -> None:
    again = count(TWICE)
    assert len(again) == TWICE
    assert again == {name: counted[name] for name in again}
