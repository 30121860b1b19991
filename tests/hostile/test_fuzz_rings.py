"""Fuzzing of rings: Hypothesis makes descriptors, mostly right, and what is wrong about them, and what fails small.

Every input is held against the model of the specification (`ring_model`), as in attacks_fuzzed, which does the same to
a running fwd with others beside it. Here the worker is stepped: the same examples every time, and none waits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.hostile.attacks_fuzzed import MET, MET_ON_SPLIT
from tests.hostile.conftest import endurance
from tests.hostile.fuzzed import FuzzedGuest
from tests.hostile.rings import EVERY, FORMATS
from tests.hostile.stepped_scene import PortArena, SteppedScene
from tests.hostile.test_fuzz_messages import fuzz

EXAMPLES = 200
"""Of each format; with --long more."""
MOST_INPUTS = 3
"""Of one guest: a queue that goes on, and one that is set up again."""
FEW = 3
"""Rules that may happen to be broken by none of the examples; attacks_fuzzed goes on until all were."""


class Choices:
    """Choices are Hypothesis's; bytes that nobody looks at are not worth one."""

    def __init__(self, chosen: random.Random) -> None:
        self._chosen, self._filling = chosen, random.Random(0)

    def randbytes(self, n: int) -> bytes:
        return self._filling.randbytes(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chosen, name)


class Target:
    """A new arena where an example has failed."""

    def __init__(self, ring: str) -> None:
        self._ring = ring
        self._begin()
        self.told: Counter[str] = Counter()

    def _begin(self) -> None:
        self._arena = PortArena(hold_timeout_ms=60_000)
        self._scene = SteppedScene(self._arena, self._ring)

    def attack(self, example: tuple[random.Random, bool, int]) -> None:
        chosen, good, inputs = example
        guest = None
        try:
            rng: Any = Choices(chosen)
            guest = FuzzedGuest(self._scene, rng, good)
            for _ in range(inputs):
                guest.step()
            guest.counted()
            self._scene.disconnect()
            self._scene.let_rounds_pass()
            self._scene.let_go()
            self._scene.victim.net.receive_all()
        except BaseException as error:
            self._end()
            self._begin()
            if guest:
                error.add_note(guest.words())
            raise
        self.told.update(guest.told)

    def _end(self) -> None:
        self._scene.close()
        self._arena.close()

    def close(self) -> None:
        self._scene.close()
        self._arena.check()
        self._arena.close()


@pytest.fixture(params=EVERY)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    target = Target(request.param)
    yield target
    target.close()


def test_whatever_stands_in_a_ring_what_comes_of_it_is_what_the_specification_says(
    target: Target, pytestconfig: pytest.Config
) -> None:
    good = st.sampled_from((False,) * 5 + (True,))
    examples = st.tuples(st.randoms(use_true_random=False), good, st.integers(1, MOST_INPUTS))
    fuzz(round(EXAMPLES * endurance(pytestconfig)), examples, target.attack)
    met = MET if FORMATS[target._ring].packed else MET | MET_ON_SPLIT
    assert len(met - set(target.told)) <= FEW, f"never met: {met - set(target.told)}"
