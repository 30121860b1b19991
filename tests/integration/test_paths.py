"""scripts/paths, as a newcomer runs it. Paths 3 and 4, for which this kernel may lack the means: tests/nested."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.fwd import ENVIRONMENT
from tests.integration.waits import wait_until

SCRIPT = Path(__file__).parents[2] / "scripts" / "paths"


def taps() -> set[str]:
    """Interfaces that scripts/paths makes and takes away."""
    return {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("fvp")}


def processes(word: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has just ended
    return found


def test_paths_measures_each_direction_verifies_and_leaves_nothing_behind(place: Path) -> None:
    before = taps()
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seconds", "1", "--json", "1", "2", "5"],
        env=ENVIRONMENT | {"TMPDIR": str(place)}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line.removeprefix("row ")) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [1, 2, 5]
    for row in rows:
        assert row["where"] == "this host"
        assert (row["corrupt"], row["duplicated"]) == (0, 0)
        assert row["round_trip_us"]["median"] > 0
        for direction in ("in", "out", "bounce"):
            assert row[direction]["intact"] > 100, row
            assert row[direction]["cpu_seconds_per_million_frames"]["qemu_guest"] > 0
    # Where a receiver without buffers is waited for, nothing gets lost.
    assert (rows[2]["in"]["lost"], rows[2]["out"]["lost"]) == (0, 0)
    assert taps() <= before
    assert list(place.iterdir()) == []


def test_an_interrupted_run_leaves_no_tap_no_process_and_no_socket(place: Path) -> None:
    before = taps()
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--seconds", "60", "2"],
        env=ENVIRONMENT | {"TMPDIR": str(place)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as running:  # fmt: skip
        tap = f"fvp2-{running.pid % 100000}"
        wait_until("App1 and its guest run", 90, lambda: len(processes(tap)) >= 2)
        time.sleep(2)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    assert processes(tap) == []
    assert taps() <= before
    assert list(place.iterdir()) == []


def test_a_path_that_there_is_not_is_refused_with_those_there_are() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "6"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'1', '2', '3', '4', '5', 'all'" in done.stderr
