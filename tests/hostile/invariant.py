"""The one exception of the hostile tests."""

from __future__ import annotations


class Broken(AssertionError):
    """An invariant (I1 to I10, C) does not hold, or a bad input met another reaction than A, B or C."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
