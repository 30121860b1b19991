"""What does a frame cost in one burst: receive, deliver, release? The same burst again and again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.measure import per_unit
from bench.rig import POLLED, USUAL_FEATURES, rig
from fastvhost.driver.frontend import Feature
from tests.probes.bench_dataplane import FRAMES, forward_again

TURNS = 200


@pytest.mark.parametrize("ring", [Feature(0), Feature.RING_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("size", [64, 512, 1518])
def test_forward_burst(benchmark: Any, size: int, ring: Feature) -> None:
    with rig(replace(POLLED, sizes=(size,)), both_ways=False, features=USUAL_FEATURES | ring) as r:
        r.load.step()
        assert forward_again(r.worker, *r.ports, 1) == FRAMES
        per_unit(benchmark, FRAMES * TURNS, "frame", forward_again, r.worker, *r.ports, TURNS)
