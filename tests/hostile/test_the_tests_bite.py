"""The hostile tests against the broken mini back-end: without a bug it passes them all, with a bug it is caught."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.hostile.arena import Arena
from tests.hostile.backend import mini
from tests.hostile.broken.bugs import BUGS
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.conftest import Shared
from tests.hostile.invariant import Broken

LIMITS: dict[str, Any] = {
    "pace": 1000,
    "endurance": 0.1,
    "longest_queue": 1024,
    "longest_round": 0.1,
}
"""What a few hundred lines of Python can be asked for."""
AT_ONCE = 3
Case = tuple[str, str]
CASES = [(bug, entry.name) for entry in CATALOGUE.values() for bug in entry.bugs]


@pytest.fixture(scope="module")
def sound() -> Iterator[Shared]:
    """The mini back-end without a bug."""
    shared = Shared(lambda: Arena(mini(), patience=5.0, **LIMITS))
    yield shared
    shared.close()


@pytest.mark.parametrize("name", CATALOGUE)
def test_without_a_bug_the_mini_back_end_stands(name: str, sound: Shared) -> None:
    sound.get().run(CATALOGUE[name])


def outcome(case: Case) -> Broken | None:
    """What an arena of its own says of this attack on a mini back-end with this bug."""
    bug, name = case
    arena = Arena(mini(bug), patience=0.5, persistence=2.0, **LIMITS)
    try:
        arena.run(CATALOGUE[name])
    except Broken as broken:
        return broken
    finally:
        arena.close()
    return None


class Ahead:
    """Outcomes, worked out a few at a time before they are asked for: most of each is waiting in vain."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._outcomes: dict[Case, Future[Broken | None]] = {}

    def of(self, case: Case, following: list[Case]) -> Broken | None:
        for each in (case, *following):
            if each not in self._outcomes:
                self._outcomes[each] = self._pool.submit(outcome, each)
        return self._outcomes[case].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def ahead() -> Iterator[Ahead]:
    outcomes = Ahead()
    yield outcomes
    outcomes.close()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_with_the_bug_the_attack_is_noticed(case: Case, ahead: Ahead, request: pytest.FixtureRequest) -> None:
    params = [getattr(item, "callspec").params for item in request.session.items if hasattr(item, "callspec")]  # noqa: B009
    cases: list[Case] = [each["case"] for each in params if "case" in each]
    at = cases.index(case)
    assert ahead.of(case, cases[at + 1 : at + 1 + AT_ONCE]), f"with the bug {case[0]}, {case[1]} passes"


def test_every_bug_is_caught_by_some_attack() -> None:
    assert {bug for bug, _ in CASES} == set(BUGS)
