"""Changes an administrator makes to the network card of a QEMU guest: it goes on, or the change is refused.

With this machine's QEMU, 7.2; `python -m bench.by_hand --qemu newest` does the same with 11.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.by_hand import ACTIONS, Action, Scene, carry_out
from bench.guests.qemu import Qemu

pytestmark = pytest.mark.timeout(900)  # a boot over the network, which is slow on a busy machine


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    with Scene(place, Qemu()) as scene:
        yield scene


@pytest.mark.parametrize("action", ACTIONS, ids=[action.name for action in ACTIONS])
def test_under_traffic_it_goes_on_or_the_guest_is_told_no(scene: Scene, action: Action) -> None:
    carry_out(scene, action)
