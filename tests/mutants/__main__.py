"""Runs tests against seeded bugs: python -m tests.mutants [NAME ...] [-- NODEID ...]

Without node ids, the test that each bug names; with them (files, too), each of these against each bug.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.mutants.bugs import MUTANTS
from tests.mutants.mutant import ROOT
from tests.mutants.tree import build


def main() -> None:
    """Print an outcome a line; with one bug, what the test printed as well."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    names, tests = words[:cut], words[cut + 1 :]
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    jobs = [(mutant.name, test) for mutant in chosen for test in (tests or [f"tests/{mutant.test}"])]
    tree = build(ROOT / "build" / "mutants", MUTANTS)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.mutants.runner", str(tree)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as runner:
        assert runner.stdin
        assert runner.stdout
        runner.stdin.writelines(f"{json.dumps(job)}\n" for job in jobs)
        runner.stdin.close()
        for line in runner.stdout:
            show(json.loads(line), whole=len(jobs) == 1, tests=tests)


def show(outcome: dict[str, Any], *, whole: bool, tests: list[str]) -> None:
    """Print a line; and which tests failed, or all output."""
    print(f"{outcome['code']:4} {outcome['seconds']:6.2f} s  {outcome['name']:40} {outcome['test']}", flush=True)
    if whole:
        print(outcome["output"])
    elif tests:
        failed = [text for text in outcome["output"].splitlines() if text.startswith("FAILED")]
        print(*failed, sep="\n", end="\n" * bool(failed), flush=True)


main()
