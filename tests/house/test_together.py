"""How scripts/test distributes tests (tests/together.py), on a few tests that record when they run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import sources

NOTED = """
import os, time
from pathlib import Path
import pytest

@pytest.fixture(autouse=True)
def _noted(request):
    begin = time.monotonic()
    yield
    with open("noted", "a") as file:
        file.write(f"{request.node.name} {os.getpid()} {begin} {time.monotonic()}\\n")
"""
SIDE_BY_SIDE = """
import time, pytest

@pytest.mark.parametrize("number", ["first", "second", "third"])
def test_shared_NAME(number):
    time.sleep(0.1)
"""
ALONE = """
import time, pytest
pytestmark = pytest.mark.alone

@pytest.mark.parametrize("number", ["first", "second"])
def test_alone_NAME(number):
    time.sleep(0.1)
"""


def run(directory: Path, *words: str, **files: str) -> subprocess.CompletedProcess[str]:
    """pytest with three workers on these files."""
    conftest = f'{NOTED}\npytest_plugins = ["tests.conftest"]\n'
    for name, text in {"conftest": conftest, **files}.items():
        (directory / f"{name}.py").write_text(text.replace("NAME", name))
    without = [word for plugin in ("cacheprovider", "benchmark", "hypothesispytest") for word in ("-p", f"no:{plugin}")]
    options = ["-c", os.devnull, f"--rootdir={directory}", "-o", "markers=alone", *without, "-n", "3"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words, directory],
        cwd=directory, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(sources.ROOT), *sys.path])},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def noted(directory: Path) -> list[tuple[str, str, float, float]]:
    """Test, worker, begin and end of each that ran."""
    lines = [line.split() for line in (directory / "noted").read_text().splitlines()]
    return [(name, pid, float(begin), float(end)) for name, pid, begin, end in lines]


def test_what_is_marked_alone_runs_when_nothing_else_does_and_a_file_stays_together(tmp_path: Path) -> None:
    files = {"test_a": ALONE, "test_b": SIDE_BY_SIDE, "test_c": SIDE_BY_SIDE, "test_d": ALONE, "test_e": SIDE_BY_SIDE}
    done = run(tmp_path, **files)
    assert "13 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    shared = [each for each in noted(tmp_path) if "shared" in each[0]]
    alone = [each for each in noted(tmp_path) if "alone" in each[0]]
    assert (len(shared), len(alone)) == (9, 4)
    assert min(begin for *_, begin, _ in alone) >= max(end for *_, end in shared)
    assert len({worker for _, worker, *_ in alone}) == 1
    assert len({worker for _, worker, *_ in shared}) == 2
    for file in ("b", "c", "e"):
        assert len({worker for name, worker, *_ in shared if f"test_{file}" in name}) == 1


@pytest.mark.parametrize("file", [SIDE_BY_SIDE, ALONE], ids=["shared", "alone"])
def test_a_single_test_is_chosen_by_its_name(tmp_path: Path, file: str) -> None:
    done = run(tmp_path, "-k", "second", test_a=file)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_name_that_fits_no_test_is_an_error(tmp_path: Path) -> None:
    assert run(tmp_path, "-k", "no_such_name", test_a=ALONE).returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_worker_that_dies_costs_the_test_it_ran_and_no_other(tmp_path: Path) -> None:
    dies = "import os, pytest\nMARK\ndef test_dies(): os._exit(3)\ndef test_comes_next(): pass\n"
    alone = dies.replace("MARK", "pytestmark = pytest.mark.alone")
    done = run(tmp_path, test_a=dies.replace("MARK", ""), test_b=SIDE_BY_SIDE, test_c=alone, test_d=ALONE)
    failed = re.findall(r"^FAILED .*test_(.)\.py::(\w+)", done.stdout, re.MULTILINE)
    assert sorted(failed) == [("a", "test_dies"), ("c", "test_dies")], done.stdout + done.stderr
    assert "2 failed, 7 passed" in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_a_skipped_test_fails_the_run_whichever_worker_skipped_it(tmp_path: Path) -> None:
    skips = "import pytest\ndef test_skips(): pytest.skip('no time')\n"
    done = run(tmp_path, test_a=skips, test_b=ALONE)
    assert "FAILED: 1 tests were skipped" in done.stdout, done.stdout + done.stderr
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
