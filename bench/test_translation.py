"""What does it cost to find a guest address in memory of one region, of eight, of as many as possible?"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from bench.measure import TURNS, per_unit
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping
from tests.probes.bench_dataplane import FRAMES, translate

PAGE = 4096


@pytest.mark.parametrize("n_regions", [1, 8, 509])
def test_find_region(benchmark: Any, n_regions: int) -> None:
    fd = os.memfd_create("bench")
    os.ftruncate(fd, PAGE)
    # Every other page: a hole after each region.
    mappings = [Mapping(fd, 2 * PAGE * i, PAGE, 2 * PAGE * i, 0) for i in range(n_regions)]
    os.close(fd)
    try:
        chance = random.Random(1)
        addresses = [2 * PAGE * chance.randrange(n_regions) + chance.randrange(PAGE - 64) for _ in range(FRAMES)]
        memory = GuestMemory(mappings)
        assert translate(memory, addresses, 64, 1) == FRAMES
        assert translate(memory, [a + PAGE for a in addresses], 64, 1) == 0
        per_unit(benchmark, FRAMES * TURNS, "address", translate, memory, addresses, 64, TURNS)
    finally:
        for mapping in mappings:
            mapping.close()
