"""The scripts that a newcomer runs: their messages when something is missing, and that none hides a failure."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.house import sources

SCRIPTS = sorted(
    path
    for path in [*(sources.ROOT / "scripts").iterdir(), sources.ROOT / ".ci" / "run"]
    if path.is_file() and path.read_text().startswith("#!/usr/bin/env bash")
)


def shell(code: str) -> subprocess.CompletedProcess[str]:
    """Run code with scripts/lib.sh at hand."""
    prelude = "set -euo pipefail; . scripts/lib.sh; "
    return subprocess.run(
        ["bash", "-c", prelude + code], cwd=sources.ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_stops_at_errors_and_may_be_run(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True, timeout=10)
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text() or path.parent.name == ".ci"


def test_without_root_one_line_says_what_to_install() -> None:
    done = shell("id() { echo 1000; }; need_packages bash no-such-package-a no-such-package-b")
    assert done.returncode == 1
    command = "apt-get update && apt-get install no-such-package-a no-such-package-b"
    assert done.stderr == f"fastvhost: packages are missing; as root: {command}\n"


def test_where_nothing_is_missing_nothing_is_said_or_fetched() -> None:
    done = shell("apt-get() { echo fetched; }; need_packages bash coreutils")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_python_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    python.chmod(0o755)
    done = shell(f'PATH="{tmp_path}:$PATH"; find_python')
    assert done.returncode == 1
    assert "Python 3.9.2 is too old, 3.11 is wanted" in done.stderr


def test_the_check_of_a_change_is_the_tests() -> None:
    assert "scripts/test" in (sources.ROOT / ".ci" / "run").read_text()
