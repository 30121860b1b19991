"""Paths 3 and 4, by the command that users run: App1 with vhost-net, and with fastvhost's own device file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.guests.fwd import ENVIRONMENT
from bench.guests.process import Process
from bench.guests.short_dir import short_dir

SCRIPT = Path(__file__).parents[2] / "scripts" / "paths"
# Tells scripts/paths that this is the outer guest already.
INSIDE = {"FASTVHOST_INSIDE": "1"}
SECONDS = 320
"""The time that scripts/paths allows in the outer guest."""
pytestmark = pytest.mark.timeout(SECONDS + 60)


def both_ways(number: int) -> dict[str, Any]:
    """The row of a path on which frames passed in each direction, none of them corrupt."""
    command = [sys.executable, SCRIPT, "--json", "--seconds", "1", "--size", "300", str(number)]
    with short_dir() as directory, Process("paths", command, directory, env=ENVIRONMENT | INSIDE) as run:
        status = run.popen.wait(SECONDS)
        said = run.log()
    assert status == 0, said
    (row,) = (json.loads(line.removeprefix("row ")) for line in said.splitlines() if line.startswith("row "))
    assert (row["path"], row["bytes"], row["where"]) == (number, 300, "outer guest")
    for direction in ("in", "out", "bounce"):
        assert row[direction]["intact"] >= 10, row
    assert (row["corrupt"], row["duplicated"]) == (0, 0), row
    return dict(row)


@pytest.mark.long  # 100 s of a guest that the kernel serves; path 2 has the same tap and pcap, in each run
def test_path_3_app1_talks_through_the_tap_of_a_guest_that_the_kernel_serves() -> None:
    row = both_ways(3)
    # vhost-net moved the frames, and not QEMU itself.
    assert row["in"]["cpu_seconds_per_million_frames"]["kernel_thread"] > 0


def test_path_4_app1_is_the_vhost_net_of_its_guest() -> None:
    row = both_ways(4)
    assert row["in"]["cpu_seconds_per_million_frames"]["kernel_thread"] == 0
    # fastvhost waits while a receiver has no buffer, in both directions.
    assert (row["in"]["lost"], row["out"]["lost"]) == (0, 0)
