"""scripts/paths, as a newcomer runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.fwd import ENVIRONMENT

SCRIPT = Path(__file__).parents[2] / "scripts" / "paths"


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("fvp")}


def test_paths_measures_verifies_and_leaves_nothing_behind() -> None:
    before = interfaces()
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seconds", "1", "--json", "2", "5"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line.removeprefix("row ")) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [2, 5]
    for row in rows:
        assert row["where"] == "this host"
        assert row["intact"] > 100
        assert (row["corrupt"], row["duplicated"]) == (0, 0)
        assert row["round_trip_us"]["median"] > 0
        assert row["cpu_seconds_per_million_frames"]["qemu"] > 0
    assert interfaces() <= before


def test_a_path_that_there_is_not_is_refused_with_those_there_are() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "6"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'1', '2', '3', '4', '5', 'all'" in done.stderr
