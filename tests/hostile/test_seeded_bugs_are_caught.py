"""The hostile tests against the broken mini back-end: without a bug it passes them all, with a bug it is caught.

Those that are about rings and frames alone: test_seeded_bugs_at_a_port.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import pytest

from tests.hostile import catalogue
from tests.hostile.arena import Arena
from tests.hostile.backend import mini
from tests.hostile.broken.bugs import BUGS
from tests.hostile.catalogue import CATALOGUE, name_of
from tests.hostile.conftest import Shared
from tests.hostile.invariant import Broken
from tests.hostile.seeded import HARM, PAIRS, RUNNING, Pair, name_of_pair, one_of_each, without_bugs

pytestmark = pytest.mark.alone

LIMITS: dict[str, Any] = {
    "pace": 1000,
    "endurance": 0.1,
    "longest_queue": 1024,
    "longest_round": 0.05,
    "flood": False,
}
"""Limits that a back-end of a few hundred lines of Python can keep."""
AT_ONCE, SOUND_AT_ONCE = 3, 2
C, R = TypeVar("C"), TypeVar("R")
RACES = {"double-fetch"}
"""Bugs that do harm only where another process writes between two reads: in two seconds it may not once."""
DONE = {"I1", "I6", "I7"}
"""Invariants whose failure does not depend on how fast the machine is."""
MAX_WAIT, IN_VAIN = 30.0, (0.2, 1.0, 5.0)
"""Seconds to wait for what must come; and for what most bugs prevent, longer at each further attempt."""
ENOUGH_ROUNDS = 100
"""Rounds of the worker, after which nothing more is expected."""
own = threading.local()
"""Each thread's arena with a mini back-end without a bug."""


def stands(case: catalogue.Case) -> None:
    """Run this attack on a mini back-end without a bug. Raises Broken."""
    name, ring = case
    if not hasattr(own, "shared"):
        own.shared = Shared(lambda beside: Arena(mini(), beside=beside, max_wait=MAX_WAIT, **LIMITS))
        SHARED.append(own.shared)
    own.shared.get(catalogue.beside(case)).run(CATALOGUE[name], ring)


SHARED: list[Shared] = []


def outcome(pair: Pair) -> Broken | None:
    """The outcome of this attack on a mini back-end with this bug, in an arena of its own.

    Waits are short, since the bug often prevents what is waited for. Where a busy machine may be the reason instead,
    the attack is tried again with longer waits; and where the bug is a race, which did no harm by chance.
    """
    harm = HARM.get(pair[0])
    waits = (IN_VAIN[1], MAX_WAIT) if harm else IN_VAIN
    for max_wait in (*waits, MAX_WAIT) if pair[0] in RACES else waits:
        broken, certain = tried(pair, max_wait)
        if not broken and pair[0] in RACES:
            continue
        if not broken or ((certain or broken.invariant in DONE) and broken.invariant in (harm or {broken.invariant})):
            break
    return broken


def tried(pair: Pair, max_wait: float) -> tuple[Broken | None, bool]:
    """Run the attack once. Returns what broke, and whether it is certain that a busy machine is not the reason.

    It is certain where the worker made enough rounds, or ended; or had enough CPU time and made none.
    """
    bug, name, ring = pair
    arena = Arena(mini(bug), beside=catalogue.beside((name, ring)), max_wait=max_wait, persistence=2.0, **LIMITS)
    time_had, before = arena.backend.own_time(), math.inf
    try:
        before = arena.rounds()
        arena.run(CATALOGUE[name], ring)
    except Broken as broken:
        had_time = max_wait > IN_VAIN[0] and time_had.seconds >= max_wait
        return words_of(broken), had_time or rounds_since(arena, before) >= ENOUGH_ROUNDS
    finally:
        arena.close()
    return None, True


def words_of(broken: Broken) -> Broken:
    """The exception without its traceback, whose frames keep the arena and the memory of all its guests."""
    broken.__traceback__ = broken.__context__ = broken.__cause__ = None
    return broken


def rounds_since(arena: Arena, before: float) -> float:
    """Rounds of the worker since then; infinite where it has ended."""
    try:
        return arena.rounds() - before
    except Broken:
        return 0 if arena.backend.alive() else math.inf


class Ahead(Generic[C, R]):
    """Works out outcomes a few at a time before they are asked for, since they mostly wait."""

    def __init__(self, work: Callable[[C], R], at_once: int) -> None:
        self._work, self._at_once = work, at_once
        self._pool = ThreadPoolExecutor(at_once)
        self._outcomes: dict[C, Future[R]] = {}

    def of(self, case: C, request: pytest.FixtureRequest, parameter: str) -> R:
        """The outcome of this case. Begins the following ones of this test."""
        own = [item for item in request.session.items if getattr(item, "function", None) is request.function]
        cases: list[C] = [getattr(item, "callspec").params[parameter] for item in own]  # noqa: B009
        at = cases.index(case)
        for each in cases[at : at + 1 + self._at_once]:
            if each not in self._outcomes:
                self._outcomes[each] = self._pool.submit(self._work, each)
        return self._outcomes[case].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def sound() -> Iterator[Ahead[catalogue.Case, None]]:
    outcomes = Ahead(stands, SOUND_AT_ONCE)
    yield outcomes
    outcomes.close()
    for shared in SHARED:
        shared.close()


@pytest.fixture(scope="module")
def ahead() -> Iterator[Ahead[Pair, Broken | None]]:
    outcomes = Ahead(outcome, AT_ONCE)
    yield outcomes
    outcomes.close()


def test_without_a_bug_the_mini_back_end_stands(
    case: catalogue.Case, sound: Ahead[catalogue.Case, None], request: pytest.FixtureRequest
) -> None:
    sound.of(case, request, "case")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One of each kind, with the bug and without; with --long every attack with every bug, on each ring format."""
    pairs = RUNNING if metafunc.config.getoption("--long") else one_of_each(RUNNING)
    if "pair" in metafunc.fixturenames:
        metafunc.parametrize("pair", pairs, ids=name_of_pair)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", sorted(without_bugs(pairs), key=catalogue.beside), ids=name_of)


def test_with_the_bug_the_attack_is_noticed(
    pair: Pair, ahead: Ahead[Pair, Broken | None], request: pytest.FixtureRequest
) -> None:
    broken = ahead.of(pair, request, "pair")
    assert broken, f"with the bug {pair[0]}, {pair[1]} passes"
    assert broken.invariant in HARM.get(pair[0], {broken.invariant}), broken


def test_every_bug_is_caught_by_some_attack() -> None:
    assert {bug for bug, *_ in PAIRS} == set(BUGS)
