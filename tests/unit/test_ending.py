"""How scripts/paths ends: see bench/ending.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench import ending
from bench.guests.waits import MAX_WAIT, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_temporary_files_lie_in_the_own_directory_and_go_with_it(place: Path) -> None:
    with ending.own_directory() as own, tempfile.TemporaryDirectory() as inner:
        assert own.parent == place
        assert Path(inner).parent == own
        (own / "socket").touch()
    assert list(place.iterdir()) == []
    assert tempfile.gettempdir() == str(place)


def test_only_directories_of_ended_processes_are_removed(place: Path) -> None:
    (place / "fv-run-dead" / "inner").mkdir(parents=True)
    (place / "fv-run-dead" / "inner" / "log").touch()
    (place / "else").mkdir()
    (place / "target").mkdir()
    (place / "fv-run-link").symlink_to(place / "target")
    with ending.own_directory() as own:
        tempfile.tempdir = str(place)
        assert ending.remove_left_over() == [place / "fv-run-dead"]
        assert sorted(place.iterdir()) == sorted([own, place / "else", place / "fv-run-link", place / "target"])


def test_the_directory_of_a_killed_run_is_removed_by_the_next_one(place: Path) -> None:
    code = """
import time
from bench import ending
with ending.own_directory() as own:
    print(own, flush=True)
    time.sleep(60)
"""
    command, there = [sys.executable, "-c", code], os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(command, cwd=ROOT, env=there, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        own = Path(owner.stdout.readline().strip())
        assert ending.remove_left_over() == []
        owner.kill()
        owner.wait(MAX_WAIT)
    assert ending.remove_left_over() == [own]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_program_with_all_that_it_started_and_the_next_one_cannot_cut_that_short(
    tmp_path: Path, number: signal.Signals
) -> None:
    # Its output ends when no process has it open any more.
    code = f"""
import os, time
from bench import ending
ending.end_on_signals("test")
try:
    ending.run_whole(["sh", "-c", "sleep 500 & sleep 500"], ".")
finally:
    open({str(tmp_path / "ending")!r}, "w").close()
    time.sleep(0.5)
    open({str(tmp_path / "ended")!r}, "w").close()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as run:
        wait_until("both sleep", MAX_WAIT, lambda: len(asleep(run.pid)) == 2)
        run.send_signal(number)
        wait_until("it ends what it started", MAX_WAIT, (tmp_path / "ending").exists)
        run.send_signal(number)
        output, _ = run.communicate(timeout=MAX_WAIT)
        assert (run.returncode, output) == (128 + number, b"")
        assert (tmp_path / "ended").exists()


def asleep(ancestor: int) -> list[int]:
    """The processes "sleep 500" below one."""
    found = []
    for child in children(ancestor):
        if Path(f"/proc/{child}/cmdline").read_bytes() == b"sleep\0" + b"500\0":
            found.append(child)
        found += asleep(child)
    return found


def children(parent: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
