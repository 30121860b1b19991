"""Runs single tests against the tree with the bugs: one process imports everything, and forks for each test.

usage: python -m tests.mutants.runner TREE < jobs > outcomes

A job is a line of JSON, [name of a bug or "", node id]. Its outcome is a line of JSON, too, printed as soon as it is
known. Two processes run at a time, each with one job; without a bug, with those of a file, and again with one where not
all of these pass.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

AT_ONCE = 2
LIMIT = 120.0
"""Seconds. A test that hangs with its bug finds it, but another test should be named."""
MOST_RUNS = 3
"""Of a test that does not find its bug: whether it finds a missing fence depends on both threads having a CPU."""
OUTPUT_BYTES = 6000
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-o", "addopts=--strict-markers", "--no-header"]
"""Without pytest-benchmark, which asks git for the commit: seven processes a test."""
PR_SET_PDEATHSIG = 1


def take_up(tree: Path) -> None:
    """From here on import the package from the tree, also modules that are not loaded yet."""
    sys.path.insert(0, str(tree))
    import fastvhost

    assert fastvhost.__file__ == str(tree / "fastvhost" / "__init__.py"), fastvhost.__file__


def load(tests: list[str]) -> None:
    """All modules of these tests. What is said of it goes to stderr."""
    import pytest

    files = sorted({test.partition("::")[0] for test in tests})
    before = os.dup(1)
    os.dup2(2, 1)
    code = pytest.main([*OPTIONS, "--collect-only", "-q", *files])
    sys.stdout.flush()
    os.dup2(before, 1)
    os.close(before)
    assert code == 0, f"collecting {' '.join(files)} ended with {code}"


def switch_on(name: str) -> None:
    """A bug, in this process."""
    from tests.mutants.bugs import MUTANTS
    from tests.mutants.in_python import put_in

    names = [mutant.name for mutant in MUTANTS]
    number = names.index(name) + 1
    mutant = MUTANTS[number - 1]
    if not mutant.compiled:
        gc.unfreeze()  # all functions are looked through
        put_in(mutant)
        return
    os.environ["FASTVHOST_MUTANT"] = str(number)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None) or ""
        if module.__name__.startswith("fastvhost.") and path.endswith(".so"):
            library = ctypes.CDLL(path)
            if hasattr(library, "fv_mutant"):
                ctypes.c_int.in_dll(library, "fv_mutant").value = number


@dataclass
class Run:
    """A process with a test; or several, without a bug."""

    name: str
    tests: list[str]
    pid: int
    output: IO[bytes]
    began: float = field(default_factory=time.monotonic)
    late: bool = False

    def outcomes(self, status: int) -> list[dict[str, object]]:
        """Empty where it is not known which of several tests failed."""
        self.output.seek(0)
        text = self.output.read()[-OUTPUT_BYTES:].decode(errors="replace")
        self.output.close()
        if (code := os.waitstatus_to_exitcode(status)) and len(self.tests) > 1:
            return []
        seconds = round((time.monotonic() - self.began) / len(self.tests), 2)
        outcome = {"name": self.name, "code": code, "late": self.late, "output": text, "seconds": seconds}
        return [outcome | {"test": test} for test in self.tests]


def begin(name: str, tests: list[str]) -> Run:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - until its outcome is known
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            if name:
                switch_on(name)
            import pytest

            from fastvhost.dataplane import notify

            notify.prepare()  # a child of fork() does not inherit its parent's AIO contexts

            code = int(pytest.main([*OPTIONS, "--tb=short", *tests]))
            sys.stdout.flush()
        finally:
            os._exit(code)
    return Run(name, tests, pid, output)


def grouped(jobs: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Those of each file without a bug, and each of the others by itself."""
    files: dict[str, list[str]] = {}
    for name, test in jobs:
        if not name:
            files.setdefault(test.partition("::")[0], []).append(test)
    return [("", tests) for tests in files.values()] + [(name, [test]) for name, test in jobs if name]


def run(jobs: list[tuple[str, list[str]]]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    running: list[Run] = []
    asked: Counter[tuple[str, str]] = Counter()
    while jobs or running:
        while jobs and len(running) < AT_ONCE:
            running.append(begin(*jobs.pop(0)))
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)
        for one in list(running):
            pid, status = os.waitpid(one.pid, os.WNOHANG)
            if pid:
                running.remove(one)
                outcomes, job = one.outcomes(status), (one.name, one.tests[0])
                asked[job] += 1
                if one.name and outcomes[0]["code"] == 0 and asked[job] < MOST_RUNS:
                    jobs.append((one.name, one.tests))
                elif outcomes:
                    print(*map(json.dumps, outcomes), sep="\n", flush=True)
                else:
                    jobs += [(one.name, [test]) for test in one.tests]
            elif not one.late and time.monotonic() - one.began > LIMIT:
                one.late = True
                os.killpg(one.pid, signal.SIGKILL)


def main() -> None:
    take_up(Path(sys.argv[1]))
    jobs = [(name, test) for name, test in map(json.loads, sys.stdin)]
    load([test for _, test in jobs])
    gc.freeze()  # pytest collects garbage three times a test; not what was there before it
    run(grouped(jobs))


if __name__ == "__main__":
    main()
