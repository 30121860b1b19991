"""Seconds of flood both ways through `--on-full hold` lose nothing; `python -m bench.loss` does it for a minute."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import endurance

pytestmark = pytest.mark.alone

SECONDS = 3
NOTHING = "0 lost, 0 corrupt, 0 reordered, 0 duplicated"


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_a_flood_both_ways_loses_no_frame_harms_none_and_keeps_their_order(
    ring: str, pytestconfig: pytest.Config
) -> None:
    seconds = round(SECONDS * endurance(pytestconfig))
    # Every byte and the number of every frame are checked by the guest that it is for.
    done = subprocess.run(
        [sys.executable, "-m", "bench.loss", "--seconds", str(seconds), "--ring", ring, "--no-record"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    said = re.fullmatch(rf"{ring}, IMIX both ways, {seconds} s: (\d+) frames, {NOTHING}\n", done.stdout)
    assert said, done.stdout + done.stderr
    assert done.returncode == 0
    assert int(said[1]) > 30_000
