"""Arenas for the hostile tests: one process for many attacks, a new one after a failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from tests.hostile.arena import Arena

BRIEF_ONES = 80
"""The most brief attacks of an arena: each sets rings up about ten times, and a port may do so 1024 times at once."""
LONG_ENDURANCE = 12.0
"""With --long: a minute of concurrent rewriting of each ring format, and so on."""


def endurance(config: pytest.Config) -> float:
    """The factor by which repeating tests run longer than usual."""
    return LONG_ENDURANCE if config.getoption("--long") else 1.0


class Shared:
    """An arena that is used until an attack fails."""

    def __init__(self, make: Callable[[str], Arena], most: float = math.inf) -> None:
        """`most`: the most attacks for one arena."""
        self._make, self._most = make, most
        self._arena: Arena | None = None

    def get(self, beside: str = "split") -> Arena:
        """An arena with rings of this format beside the attacker. A new one where the last had `most` attacks."""
        fit = self._arena and self._arena.beside == beside and not self._arena.spoiled and self._arena.runs < self._most
        if self._arena and not (fit and self._arena.backend.alive()):
            self.close()
        if not self._arena:
            self._arena = self._make(beside)
        return self._arena

    def close(self) -> None:
        if self._arena:
            self._arena.close()
        self._arena = None


@pytest.fixture(scope="module")
def shared_product(pytestconfig: pytest.Config) -> Iterator[Shared]:
    shared = Shared(lambda beside: Arena(beside=beside, endurance=endurance(pytestconfig)))
    yield shared
    shared.close()
