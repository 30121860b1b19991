"""What does it cost to take a chain from a ring, and to hand one back? All entries are in the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.measure import TURNS, per_unit
from bench.rig import POLLED, USUAL_FEATURES, rig
from fastvhost.driver.frontend import Feature
from tests.probes.bench_dataplane import FRAMES, complete_and_publish, take_chains


@pytest.mark.parametrize("ring", [Feature(0), Feature.RING_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("shape", ["plain", "4 pieces", "4 pieces, indirect"])
def test_take(benchmark: Any, shape: str, ring: Feature) -> None:
    pieces = 1 if shape == "plain" else 4
    features = USUAL_FEATURES | ring | (Feature.INDIRECT_DESC if "indirect" in shape else Feature(0))
    with rig(replace(POLLED, pieces=pieces), features=features) as r:
        r.load.step()
        assert take_chains(r.ports[0], 1, 1) == FRAMES
        per_unit(benchmark, FRAMES * TURNS, "chain", take_chains, r.ports[0], 1, TURNS)


def test_complete_and_publish(benchmark: Any) -> None:
    with rig() as r:
        per_unit(benchmark, FRAMES * TURNS, "chain", complete_and_publish, r.ports[0], 1, TURNS)
