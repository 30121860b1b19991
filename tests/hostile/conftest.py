"""Arenas for the hostile tests: one process for many attacks, a new one after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.hostile.arena import Arena


class Shared:
    """An arena that lasts until an attack spoils it."""

    def __init__(self, make: Callable[[], Arena]) -> None:
        self._make = make
        self._arena: Arena | None = None

    def get(self) -> Arena:
        if self._arena and (self._arena.spoiled or not self._arena.backend.alive()):
            self.close()
        if not self._arena:
            self._arena = self._make()
        return self._arena

    def close(self) -> None:
        if self._arena:
            self._arena.close()
        self._arena = None


@pytest.fixture(scope="module")
def shared_product() -> Iterator[Shared]:
    shared = Shared(Arena)
    yield shared
    shared.close()


@pytest.fixture
def arena(shared_product: Shared) -> Arena:
    """A running fastvhost, attacked before by other tests, in good health."""
    return shared_product.get()
