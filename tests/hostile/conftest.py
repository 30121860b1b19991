"""Arenas for the hostile tests: one process for many attacks, a new one after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import endurance
from tests.hostile.arena import Arena


class Shared:
    """An arena that lasts until an attack spoils it."""

    def __init__(self, make: Callable[[str], Arena]) -> None:
        self._make = make
        self._arena: Arena | None = None

    def get(self, beside: str = "split") -> Arena:
        """With rings of this format beside the attacker."""
        fit = self._arena and self._arena.beside == beside and not self._arena.spoiled
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
