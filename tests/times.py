"""The time of a test run: the slowest files after each run, and with --record-times a line for each file and group.

A pytest plugin. A test's time is that of its call, and of the fixtures set up and taken down for it. So the first test
of a shared guest includes its boot.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

SHOWN = 10


class Times:
    """Seconds and tests of each file."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()
        self._start = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        self._seconds[file] += report.duration  # type: ignore[assignment]
        self._tests[file] += report.when == "call"

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        slowest = self._seconds.most_common(SHOWN)
        if sum(self._seconds.values()) > 60:
            terminalreporter.write_sep("=", f"slowest {len(slowest)} files")
            for file, seconds in slowest:
                terminalreporter.write_line(f"{seconds:7.1f} s  {self._tests[file]:5} tests  {file}")
        if config.getoption("record_times") and not hasattr(config, "workerinput"):  # xdist: all of it
            from bench.record import write

            terminalreporter.write_line(f"-> {write('test-time', self.figures())}")

    def figures(self) -> list[dict[str, object]]:
        """A figure for each file, one for each folder, and one for all.

        The last one is from beginning to end: less than the sum where tests ran at the same time.
        """
        groups = [{file: file for file in self._seconds}, {file: file.rpartition("/")[0] for file in self._seconds}]
        groups.append(dict.fromkeys(self._seconds, "all"))
        figures: list[dict[str, object]] = []
        for group in groups:
            seconds: Counter[str] = Counter()
            tests: Counter[str] = Counter()
            for file, name in group.items():
                seconds[name] += self._seconds[file]
                tests[name] += self._tests[file]
            figures += [
                {"bench": name, "unit": "s", "median": round(spent, 1), "tests": tests[name]}
                for name, spent in seconds.most_common()
            ]
        passed = round(time.monotonic() - self._start, 1)
        return [*figures, {"bench": "whole run", "unit": "s", "median": passed, "tests": self._tests.total()}]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-times", action="store_true", help="write the seconds of each file to bench/results/test-time.jsonl"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Times(), "times")
