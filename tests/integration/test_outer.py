"""Checks that need vhost-net, CUSE or settings of a machine: run in a guest that boots once; each is a test here."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.outer import OuterGuest, here
from bench.guests.qemu import Machine
from bench.guests.short_dir import short_dir
from bench.guests.snapshot import snapshot


def named(name: str, check: Callable[..., None]) -> list[Any]:
    """A check's name as pytest has it, once for each of its parameters."""
    marks = getattr(check, "pytestmark", [])
    lists = [mark for mark in marks if mark.name == "parametrize"]
    cases = [case for mark in lists for case in zip(mark.kwargs["ids"], mark.args[1], strict=True)]
    named = [pytest.param(f"{name}[{which}]", marks=getattr(value, "marks", ())) for which, value in cases]
    return named or [pytest.param(name, marks=[mark for mark in marks if mark.name == "long"])]


NESTED = Path(__file__).parents[1] / "nested"
CHECKS = [
    each
    for path in sorted(NESTED.glob("checks_*.py"))
    for name, check in vars(importlib.import_module(f"tests.nested.{path.stem}")).items()
    if name.startswith("test_")
    for each in named(f"{path.name}::{name}", check)
]
SECONDS = 1300
PYTEST = ["-p", "no:cacheprovider", "-o", "python_files=checks_*.py", "-v", "--color=no", "--tb=short"]


@pytest.fixture(scope="module")
def report(pytestconfig: pytest.Config) -> Iterator[str]:
    """What pytest said in the outer guest."""
    # Like the images that every outer guest finds in the cache, but this one needs the right to make a tap.
    snapshot(Machine("kept", Path("none"), 1, queue_pairs=2))
    with short_dir() as directory, OuterGuest(directory) as outer:
        outer.wait_ready()
        said: list[bytes] = []
        words = [*PYTEST, *["--long"] * pytestconfig.getoption("long"), str(NESTED)]
        outer.follow(here([sys.executable, "-m", "pytest", *words]), SECONDS, said.append)
        yield b"".join(said).decode(errors="replace")


@pytest.mark.timeout(SECONDS + 100)
@pytest.mark.parametrize("check", CHECKS)
def test_in_the_outer_guest(report: str, check: str) -> None:
    assert re.search(rf"^\S*{re.escape(check)} PASSED", report, re.MULTILINE), report[-12000:]
