"""The hostile tests against the broken mini back-end: without a bug it passes them all, with a bug it is caught."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.hostile import (
    attacks_flipped,
    attacks_frame,
    attacks_fuzzed,
    attacks_legal,
    attacks_merge,
    attacks_order,
    attacks_receive,
    attacks_ring,
    attacks_twofold,
    catalogue,
)
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
AT_ONCE = 3
SPLIT_ONLY = {"twice-is-once", "stale-next", "nested-indirect", "indirect-only-first"}
SPLIT_ONLY |= {"no-head-check", "no-avail-jump-check", "no-next-check", "no-table-bound"}
DESCRIPTORS = {each.__name__ for each in (attacks_flipped, attacks_frame, attacks_legal, attacks_merge, attacks_order)}
DESCRIPTORS |= {each.__name__ for each in (attacks_fuzzed, attacks_receive, attacks_ring, attacks_twofold)}
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
DICE = "rings_made_by_dice"
OF_PACKED = ("batch-checks-last", "wrap-ignored", "used-bit-ignored", "gap-skipped", "used-wrap-forgotten")
OF_PACKED += ("chain-does-not-wrap", "marks-whole-chain", "id-of-first", "mask-for-modulo", "base-without-wrap")
CASES += [(bug, DICE, "packed") for bug in (*OF_PACKED, "sloppy-range", "indirect-and-next", "burst-length")]
IN_BATCHES = ("order-trusted", "batch-told-by-first", "batch-moves-one", "batch-length")
CASES += [(bug, DICE, ring) for bug in IN_BATCHES for ring in ("split_in_order", "packed_in_order")]
CASES += [("burst-length", entry.name, "packed") for entry in CATALOGUE.values() if "burst-length" in entry.bugs]
CASES += [
    (entry.bugs[0], entry.name, "packed")
    for entry in CATALOGUE.values()
    if entry.bugs and entry.rings[0] == "split" and "packed" in entry.rings and entry.run.__module__ not in DESCRIPTORS
]
CASES = list(dict.fromkeys(CASES))
"""Every attack with every bug that it is there for; and every bug that a packed ring may have once more on one.

Attacks that are about something else than descriptors, each once more with packed rings.
"""
HARM = {
    "double-fetch": {"I1", "I6", "I7"},
    "bad-ring-goes-on": {"B"},
    "batch-length": {"C"},
    "burst-length": {"C"},
    "receive-batch": {"C"},
}
"""What the harm that some bugs do is seen as. That a back-end with them is slow, say, would prove nothing.

None of it is seen by waiting in vain, so that answers are waited for as long as without a bug.
"""
PATIENCE, IN_VAIN = 5.0, 0.5
"""Seconds to wait for what must come; and for what, with most bugs, does not."""


def name_of_pair(case: Case) -> str:
    bug, name, ring = case
    return f"{bug}-{name_of((name, ring))}"


@pytest.fixture(scope="module")
def sound() -> Iterator[Shared]:
    """The mini back-end without a bug."""
    shared = Shared(lambda beside: Arena(mini(), beside=beside, patience=PATIENCE, **LIMITS))
    yield shared
    shared.close()


@pytest.mark.parametrize("case", sorted(catalogue.LAYOUTS, key=catalogue.beside), ids=name_of)
def test_without_a_bug_the_mini_back_end_stands(case: catalogue.Case, sound: Shared) -> None:
    name, ring = case
    sound.get(catalogue.beside(case)).run(CATALOGUE[name], ring)


def outcome(case: Case) -> Broken | None:
    """What an arena of its own says of this attack on a mini back-end with this bug."""
    bug, name, ring = case
    patience = PATIENCE if bug in HARM else IN_VAIN
    arena = Arena(mini(bug), beside=catalogue.beside((name, ring)), patience=patience, persistence=2.0, **LIMITS)
    try:
        arena.run(CATALOGUE[name], ring)
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


@pytest.mark.parametrize("pair", CASES, ids=name_of_pair)
def test_with_the_bug_the_attack_is_noticed(pair: Case, ahead: Ahead, request: pytest.FixtureRequest) -> None:
    params = [getattr(item, "callspec").params for item in request.session.items if hasattr(item, "callspec")]  # noqa: B009
    cases: list[Case] = [each["pair"] for each in params if "pair" in each]
    at = cases.index(pair)
    broken = ahead.of(pair, cases[at + 1 : at + 1 + AT_ONCE])
    assert broken, f"with the bug {pair[0]}, {pair[1]} passes"
    assert broken.invariant in HARM.get(pair[0], {broken.invariant}), broken


def test_every_bug_is_caught_by_some_attack() -> None:
    assert {bug for bug, *_ in CASES} == set(BUGS)
