"""A tool of bench with --help, or with a wrong option, prints an answer and measures nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.record import ROOT

TOOLS = ("compare", "five_paths", "instructions", "loss", "memory", "plot", "wake_ups")


@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--no-such-option", 2)])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_says_how_it_is_used_and_does_nothing(tool: str, option: str, code: int) -> None:
    argv = [sys.executable, "-m", f"bench.{tool}", option]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout + done.stderr).startswith("usage: ")
    assert done.returncode == code
