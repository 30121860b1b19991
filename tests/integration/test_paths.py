"""scripts/paths, as a newcomer runs it. For paths 3 and 4, which this kernel may not support, see tests/nested."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.guests.fwd import ENVIRONMENT
from bench.guests.waits import MAX_WAIT, wait_until

SCRIPT = Path(__file__).parents[2] / "scripts" / "paths"


def taps() -> set[str]:
    """Interfaces that scripts/paths makes and removes."""
    return {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("fvp")}


def started_for(place: Path) -> list[int]:
    """Processes with this place as TMPDIR in their environment: those of a run, and their children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"TMPDIR={place}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


class Run:
    """scripts/paths, started for a place."""

    def __init__(self, place: Path, log: Path, *words: str, script: Path = SCRIPT, **settings: str) -> None:
        self.place, self._log, self._before = place, log, taps()
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, script, *words],
                env=ENVIRONMENT | {"TMPDIR": str(place)} | settings, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until it has come this far."""

        def reached() -> bool:
            assert self.popen.poll() is None, self.log()
            return bool(condition())

        wait_until(what, 120, reached)

    def wait_log(self, text: str) -> None:
        self.wait(f"it says: {text}", lambda: text in self.log())

    def wait_measuring(self) -> None:
        """Wait until App1 and its guest run."""
        for name in ("app1-0.log", "guest.agent"):
            self.wait(f"there is a {name}", lambda name=name: [*self.place.glob(f"fv-run-*/*/{name}")])

    def end(self, number: signal.Signals) -> None:
        """End it by this signal, and check that no process of it stays."""
        self.popen.send_signal(number)
        status = self.popen.wait(60)
        assert status == (-9 if number == signal.SIGKILL else 128 + number), self.log()
        wait_until("all its processes have ended", MAX_WAIT, lambda: started_for(self.place) == [])
        wait_until("its taps are gone", MAX_WAIT, lambda: taps() <= self._before)


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
    # A path that waits for receive buffers loses no frame.
    assert (rows[2]["in"]["lost"], rows[2]["out"]["lost"]) == (0, 0)
    assert taps() <= before
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("path", ["2", "5"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_tap_no_process_and_no_file(
    place: Path, tmp_path: Path, path: str, number: signal.Signals
) -> None:
    before = taps()
    run = Run(place, tmp_path / "log", "--seconds", "60", path)
    run.wait_measuring()
    assert bool(taps() - before) == (path == "2")
    run.end(number)
    assert list(place.iterdir()) == []


def test_interrupted_while_the_checkout_is_installed_it_ends_what_installs(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    omitted = shutil.ignore_patterns(".*", "*.so", "build", "results", "__pycache__")
    shutil.copytree(SCRIPT.parents[1], copy, ignore=omitted, symlinks=True)
    run = Run(place, tmp_path / "log", "5", script=copy / "scripts" / "paths")
    run.wait_log("making .venv")
    run.end(signal.SIGINT)
    # No process holds the lock for installing.
    subprocess.run(["flock", "-n", copy / ".venv.lock", "true"], check=True, timeout=10)


def test_interrupted_while_the_guest_is_built_it_ends_what_builds_and_leaves_no_half_of_it(
    place: Path, tmp_path: Path
) -> None:
    run = Run(place, tmp_path / "log", "5", XDG_CACHE_HOME=str(tmp_path))
    run.wait_log("guest-image: fetching")
    run.end(signal.SIGTERM)
    # Packages that were complete by then may stay for the next build.
    assert [entry.name for entry in (tmp_path / "fastvhost").iterdir() if not entry.name.startswith("packages-")] == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("started", [False, True], ids=["which boots", "which runs"])
def test_an_interrupted_run_leaves_nothing_of_an_outer_guest(place: Path, tmp_path: Path, started: bool) -> None:
    run = Run(place, tmp_path / "log", "--outer", "4")
    if started:
        run.wait_log("the outer guest has started")
    else:
        run.wait("the outer guest boots", lambda: [*place.glob("fv-run-*/*/outer.console")])
    run.end(signal.SIGINT)
    assert list(place.iterdir()) == []


def test_what_a_run_left_that_was_killed_is_named_and_removed_by_the_next_one(place: Path, tmp_path: Path) -> None:
    run = Run(place, tmp_path / "first", "--seconds", "60", "2")
    run.wait_measuring()
    run.end(signal.SIGKILL)
    (left,) = place.iterdir()
    following = Run(place, tmp_path / "second", "5")
    following.wait_log(f"an earlier run was killed; removed {left}")
    following.end(signal.SIGTERM)
    assert list(place.iterdir()) == []


def test_a_path_that_there_is_not_is_refused_with_those_there_are() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "6"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'1', '2', '3', '4', '5', 'all'" in done.stderr
