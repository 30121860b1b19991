"""What does the one copy cost, buffers and all in the cache, on this CPU's level?"""

from __future__ import annotations

from typing import Any

import pytest

from bench.measure import per_unit
from tests.probes.bench_dataplane import FRAMES, copy_bursts

TURNS = 200


@pytest.mark.parametrize("n_bytes", [64, 256, 512, 1024, 1518, 9000])
def test_copy(benchmark: Any, n_bytes: int) -> None:
    per_unit(benchmark, FRAMES * TURNS, "frame", copy_bursts, n_bytes, TURNS)
