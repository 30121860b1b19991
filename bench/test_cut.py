"""What does a piece of a super-frame cost: to lay it out, headers and all, and to copy and sum it as well?"""

from __future__ import annotations

from typing import Any

import pytest

from bench.measure import per_unit
from fastvhost.driver.offload import SEGMENT_BYTES, frame_headers
from tests.probes.bench_offload import cut_again

TURNS = 200
PIECES = 44


@pytest.mark.parametrize("copied", [False, True], ids=["laid out", "copied and summed"])
@pytest.mark.parametrize("piece_bytes", [SEGMENT_BYTES, 512])
def test_cut(benchmark: Any, piece_bytes: int, copied: bool) -> None:
    headers = frame_headers(bytes(14), 54 + PIECES * piece_bytes)
    frame = headers + bytes(PIECES * piece_bytes)
    assert cut_again(frame, piece_bytes, copied, 1) == PIECES
    per_unit(benchmark, PIECES * TURNS, "piece", cut_again, frame, piece_bytes, copied, TURNS)
