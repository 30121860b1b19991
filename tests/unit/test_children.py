"""Programs that demo, bench and the scripts start end when these end, also when they are killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import children
from tests.house.sources import ROOT

STARTER = """
import subprocess, sys, time
from fastvhost.control.children import dying_with_us
print(subprocess.Popen(dying_with_us(["sleep", "50"])).pid, flush=True)
time.sleep(50)
"""


def runs(pid: int) -> bool:
    """Whether there is such a process that is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_dies_with_its_starter_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=ROOT, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        wait_until("the child is what it is to be", MAX_WAIT, lambda: b"sleep" in command_line(child)[:5])
        assert runs(child)
        starter.kill()
        starter.wait(MAX_WAIT)
        wait_until("the child has died", MAX_WAIT, lambda: not runs(child))


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_program_whose_starter_died_before_the_kernel_was_told_is_not_run(tmp_path: Path) -> None:
    words = children.dying_with_us(["touch", tmp_path / "ran"])
    assert words[3] == str(os.getpid())
    assert subprocess.run(words, timeout=2 * MAX_WAIT).returncode == 0
    (tmp_path / "ran").unlink()
    words[3] = "1"  # who takes over those whose parent has died
    assert subprocess.run(words, timeout=2 * MAX_WAIT).returncode == 1
    assert not (tmp_path / "ran").exists()


def test_a_program_that_is_not_there_is_named_before_anything_starts() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        children.dying_with_us(["no-such-program", "1"])
    assert caught.value.filename == "no-such-program"


@pytest.mark.parametrize("folder", ["bench", "fastvhost"])
def test_a_script_that_starts_a_program_and_goes_on_starts_it_by_dying_with_us(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text()
        if path != ROOT / "bench" / "ending.py":  # a script that starts others, which would live on
            assert text.count("subprocess.Popen(") == len(re.findall(r"(?<!def )\bdying_with_us\(", text)), path


def test_where_nothing_can_be_told_to_the_kernel_a_program_runs_with_a_warning(tmp_path: Path) -> None:
    refused = [sys.executable, "-m", "tests.refused_calls", "EPERM", "prctl", "--"]
    words = [*refused, *children.dying_with_us(["touch", tmp_path / "ran"])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=2 * MAX_WAIT)
    assert (done.returncode, done.stdout) == (0, "")
    assert "prctl is not allowed here" in done.stderr
    assert (tmp_path / "ran").exists()
