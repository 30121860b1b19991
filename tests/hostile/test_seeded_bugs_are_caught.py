"""The hostile tests against the broken mini back-end: without a bug it passes them all, with a bug it is caught."""

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
from tests.hostile.rings import FORMATS, PACKED

pytestmark = pytest.mark.alone

LIMITS: dict[str, Any] = {
    "pace": 1000,
    "endurance": 0.1,
    "longest_queue": 1024,
    "longest_round": 0.05,
    "flood": False,
}
"""What a few hundred lines of Python can be asked for."""
AT_ONCE, SOUND_AT_ONCE = 3, 2
SPLIT_ONLY = {"twice-is-once", "stale-next", "nested-indirect", "indirect-only-first"}
SPLIT_ONLY |= {"no-head-check", "no-avail-jump-check", "no-next-check", "no-table-bound"}
C, R = TypeVar("C"), TypeVar("R")
Case = tuple[str, str, str]
"""A bug, an attack that must notice it, and a ring format."""
CASES = [(bug, entry.name, entry.rings[0]) for entry in CATALOGUE.values() for bug in entry.bugs]
SEEN = {bug for bug, _, ring in CASES if ring in PACKED}
ON_PACKED = {
    bug: (bug, entry.name, "packed_in_order" if FORMATS[entry.rings[0]].in_order else "packed")
    for entry in reversed(CATALOGUE.values())
    for bug in entry.bugs
    if "packed" in entry.rings
}
CASES += [case for bug, case in ON_PACKED.items() if bug not in SEEN | SPLIT_ONLY]
SECOND_HAND = "a_second_hand_that_rewrites_descriptors_headers_and_tables"
CASES += [(bug, SECOND_HAND, "packed") for bug in ("sloppy-range", "behind-is-inside", "bad-ring-goes-on")]
CASES += [("double-fetch", SECOND_HAND, "packed_in_order")]
RANDOM = "random_rings"
OF_PACKED = ("batch-checks-last", "wrap-ignored", "used-bit-ignored", "gap-skipped", "used-wrap-forgotten")
OF_PACKED += ("chain-does-not-wrap", "marks-whole-chain", "id-of-first", "mask-for-modulo", "base-without-wrap")
CASES += [(bug, RANDOM, "packed") for bug in (*OF_PACKED, "sloppy-range", "indirect-and-next", "burst-length")]
IN_BATCHES = ("order-trusted", "batch-told-by-first", "batch-moves-one", "batch-length")
CASES += [(bug, RANDOM, ring) for bug in IN_BATCHES for ring in ("split_in_order", "packed_in_order")]
CASES += [("burst-length", entry.name, "packed") for entry in CATALOGUE.values() if "burst-length" in entry.bugs]
CASES = list(dict.fromkeys(CASES))
"""Every attack with every bug that it is there for, on one ring format; and every bug that a packed ring may have once

more on one. What an attack does that is not about descriptors is the same beside rings of any format.
"""
SOUND = list(dict.fromkeys((name, ring) for _, name, ring in CASES))
"""Without a bug: what is to show that it was the bug."""
HARM = {
    "double-fetch": {"I1", "I6", "I7"},
    "bad-ring-goes-on": {"B"},
    "batch-length": {"C"},
    "burst-length": {"C"},
    "receive-batch": {"C"},
}
"""What the harm that some bugs do is seen as. That a back-end with them is slow, say, would prove nothing.

Where anything else is seen first, answers are waited for longer, in the end as long as without a bug.
"""
DONE = {"I1", "I6", "I7"}
"""What is wrong however slow the machine is: no wait ends in it."""
MAX_WAIT, IN_VAIN = 30.0, (0.2, 1.0, 5.0)
"""Seconds to wait for what must come; for what, with most bugs, does not, and where the machine had no time, again."""
ENOUGH_ROUNDS = 100
"""Of the worker: what has not come by then does not come."""


def name_of_pair(case: Case) -> str:
    bug, name, ring = case
    return f"{bug}-{name_of((name, ring))}"


own = threading.local()
"""Each thread's arena around a mini back-end without a bug."""


def stands(case: catalogue.Case) -> None:
    """Raises what the arena says of this attack on a mini back-end without a bug."""
    name, ring = case
    if not hasattr(own, "shared"):
        own.shared = Shared(lambda beside: Arena(mini(), beside=beside, max_wait=MAX_WAIT, **LIMITS))
        SHARED.append(own.shared)
    own.shared.get(catalogue.beside(case)).run(CATALOGUE[name], ring)


SHARED: list[Shared] = []


def outcome(case: Case) -> Broken | None:
    """What an arena of its own says of this attack on a mini back-end with this bug.

    What does not come is waited for shortly, since it is the bug that it does not. That it does not come of a busy
    machine proves nothing: then it is tried again, and waited for longer.
    """
    harm = HARM.get(case[0])
    waits = (IN_VAIN[1], MAX_WAIT) if harm else IN_VAIN
    for max_wait in waits:
        broken, certain = tried(case, max_wait)
        if not broken or ((certain or broken.invariant in DONE) and broken.invariant in (harm or {broken.invariant})):
            break
    return broken


def tried(case: Case, max_wait: float) -> tuple[Broken | None, bool]:
    """And whether it is certain that it was not the machine which had no time.

    Its worker made rounds enough, or ended; or, where a bug makes it stand still, it had the time and made none.
    """
    bug, name, ring = case
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
    """Without its frames: they have the arena, and so the memory of all its guests, for as long as this is kept."""
    broken.__traceback__ = broken.__context__ = broken.__cause__ = None
    return broken


def rounds_since(arena: Arena, before: float) -> float:
    """As good as any number where it has ended."""
    try:
        return arena.rounds() - before
    except Broken:
        return 0 if arena.backend.alive() else math.inf


class Ahead(Generic[C, R]):
    """Outcomes, worked out a few at a time before they are asked for: most of each is waiting."""

    def __init__(self, work: Callable[[C], R], at_once: int) -> None:
        self._work, self._at_once = work, at_once
        self._pool = ThreadPoolExecutor(at_once)
        self._outcomes: dict[C, Future[R]] = {}

    def of(self, case: C, request: pytest.FixtureRequest, parameter: str) -> R:
        """Of this case; those behind it are begun: of this test, not what other files would do to the product."""
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
def ahead() -> Iterator[Ahead[Case, Broken | None]]:
    outcomes = Ahead(outcome, AT_ONCE)
    yield outcomes
    outcomes.close()


@pytest.mark.parametrize("case", sorted(SOUND, key=catalogue.beside), ids=name_of)
def test_without_a_bug_the_mini_back_end_stands(
    case: catalogue.Case, sound: Ahead[catalogue.Case, None], request: pytest.FixtureRequest
) -> None:
    sound.of(case, request, "case")


@pytest.mark.parametrize("pair", CASES, ids=name_of_pair)
def test_with_the_bug_the_attack_is_noticed(
    pair: Case, ahead: Ahead[Case, Broken | None], request: pytest.FixtureRequest
) -> None:
    broken = ahead.of(pair, request, "pair")
    assert broken, f"with the bug {pair[0]}, {pair[1]} passes"
    assert broken.invariant in HARM.get(pair[0], {broken.invariant}), broken


def test_every_bug_is_caught_by_some_attack() -> None:
    assert {bug for bug, *_ in CASES} == set(BUGS)
