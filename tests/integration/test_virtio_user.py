"""DPDK's virtio-user on sockets: every kind of ring. tests/nested has the same on device files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import endurance
from tests.integration.flood import SHAPES, by_sockets, flood

pytestmark = pytest.mark.alone

FLOOD_SECONDS = 0.6
"""After that the test waits for a thousand frames, however long they take; with --long it is longer."""


@pytest.mark.parametrize("shape", SHAPES)
def test_counters_of_both_sides_are_equal(place: Path, shape: str, pytestconfig: pytest.Config) -> None:
    flood(place, by_sockets(place), SHAPES[shape], FLOOD_SECONDS * endurance(pytestconfig))
