"""The hostile tests against the broken mini back-end: without a bug it passes them all, with a bug it is caught."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.arena import Arena
from tests.hostile.backend import MINI
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


@pytest.fixture(scope="module")
def sound() -> Iterator[Shared]:
    """The mini back-end without a bug."""
    shared = Shared(lambda: Arena(MINI, patience=5.0, **LIMITS))
    yield shared
    shared.close()


@pytest.mark.parametrize("name", CATALOGUE)
def test_without_a_bug_the_mini_back_end_stands(name: str, sound: Shared) -> None:
    sound.get().run(CATALOGUE[name])


CASES = [(bug, entry.name) for entry in CATALOGUE.values() for bug in entry.bugs]


@pytest.mark.parametrize(("bug", "name"), CASES)
def test_with_the_bug_the_attack_is_noticed(bug: str, name: str) -> None:
    arena = Arena((*MINI, "--bug", bug), patience=0.7, persistence=2.0, **LIMITS)
    try:
        with pytest.raises(Broken):
            arena.run(CATALOGUE[name])
    finally:
        arena.close()


def test_every_bug_is_caught_by_some_attack() -> None:
    assert {bug for bug, _ in CASES} == set(BUGS)
