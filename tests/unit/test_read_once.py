"""A value that a driver may change at any time is read once: the checked value is the used one."""

from __future__ import annotations

import threading

from tests.probes.flipped import flip_head, take_flipped
from tests.unit.rig import frame, rig

CHANGES = 20_000
"""A second read a few nanoseconds after the first sees another head about once in a hundred times."""


def test_a_head_that_changes_after_it_was_checked_is_not_looked_at_again() -> None:
    with rig() as r:
        r.a.driver.send(frame(1))
        flipping = threading.Thread(target=flip_head, args=(r.a.port, 1, 0xFFFF), daemon=True)
        flipping.start()
        changes, wrong = take_flipped(r.a.port, 1, CHANGES, 20.0)
        flipping.join()
        assert (changes, wrong) == (CHANGES, 0)
