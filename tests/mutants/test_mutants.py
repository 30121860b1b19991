"""Each seeded bug is found by the test that it names, and without the bug that test passes.

So tests may be rewritten or removed, as long as all bugs are still found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.mutants.bugs import MUTANTS
from tests.mutants.in_python import changed
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.tree import build, sources_of

pytestmark = pytest.mark.timeout(900)  # the build, on a busy machine
NAMED = sorted({mutant.test for mutant in MUTANTS})
SURE = 60
"""Bugs at least."""


class Outcomes:
    """The outcomes of the jobs, in the order in which they end."""

    def __init__(self, jobs: list[tuple[str, str]]) -> None:
        self._tree = build(ROOT / "build" / "mutants", MUTANTS)
        self._known: dict[tuple[str, str], dict[str, object]] = {}
        without, with_bug = ([job for job in jobs if bool(job[0]) is bug] for bug in (False, True))
        # With a bug, tests wait for less time than on a busy machine, since what they wait for never comes.
        self._next = [(without, {}), (with_bug, {"FASTVHOST_MAX_WAIT": "2"})]
        self._begin()

    def _begin(self) -> None:
        jobs, settings = self._next.pop(0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.runner", str(self._tree)],
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin
        self._process.stdin.writelines(f"{json.dumps(job)}\n" for job in jobs)
        self._process.stdin.close()

    def of(self, name: str, test: str) -> dict[str, object]:
        job = name, f"tests/{test}"
        while job not in self._known:
            assert self._process.stdout
            if not (line := self._process.stdout.readline()):
                assert self._next, f"the runner ended before {job}"
                self.close()
                self._begin()
                continue
            outcome = json.loads(line)
            self._known[outcome["name"], outcome["test"]] = outcome
        return self._known[job]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """Of the tests that were asked for."""
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    jobs = [("", each["named"]) for each in params if "named" in each]
    jobs += [(each["mutant"].name, each["mutant"].test) for each in params if "mutant" in each]
    outcomes = Outcomes([(name, f"tests/{test}") for name, test in jobs])
    yield outcomes
    outcomes.close()


def test_there_are_enough_and_no_two_have_one_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= SURE


def test_the_text_of_each_stands_in_the_sources_once() -> None:
    """Otherwise the bug would not be seeded. After a change of such a line change the bug, too."""
    sources_of(MUTANTS)
    for mutant in MUTANTS:
        if not mutant.compiled:
            changed(mutant)


@pytest.mark.parametrize("named", NAMED)
def test_without_a_bug_the_named_test_passes(named: str, outcomes: Outcomes) -> None:
    outcome = outcomes.of("", named)
    assert outcome["code"] == 0, outcome["output"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_named_test_finds_the_bug(mutant: Mutant, outcomes: Outcomes) -> None:
    outcome = outcomes.of(mutant.name, mutant.test)
    assert not outcome["late"], f"with {mutant.name}, {mutant.test} hangs; name a quicker one"
    # 1: it failed. Below 0: the bug's harm ended the process. Anything else is a defect of the table or the runner.
    code = int(str(outcome["code"]))
    assert code == 1 or code < 0, f"with {mutant.name}, {mutant.test} ends with {code}\n{outcome['output']}"
