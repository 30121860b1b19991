"""What does the one copy cost with a checksum to be filled in? Beside test_copy, which has the same buffers."""

from __future__ import annotations

from typing import Any

import pytest

from bench.measure import per_unit
from tests.probes.bench_offload import FRAMES, copy_summed_bursts

TURNS = 200
TCP_AT = 34


def checksum_of_ones(n_bytes: int) -> int:
    """Of so many bytes of 1 each. RFC 1071."""
    total = 0x0101 * (n_bytes // 2) + 0x0100 * (n_bytes % 2)
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)


@pytest.mark.parametrize("n_bytes", [64, 256, 512, 1024, 1518, 9000])
def test_summed(benchmark: Any, n_bytes: int) -> None:
    assert copy_summed_bursts(n_bytes, 1) == checksum_of_ones(n_bytes - TCP_AT)
    per_unit(benchmark, FRAMES * TURNS, "frame", copy_summed_bursts, n_bytes, TURNS)
