"""Fixtures for tests with real processes, and what a failure shows of these."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from bench.guests.process import Process
from bench.guests.short_dir import short_dir


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory for a module's sockets and logs."""
    with short_dir() as directory:
        yield directory
        Process.started.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last lines of every process's log to a failing test's report."""
    report = yield
    if report.failed:
        for process in Process.started:
            report.sections.extend(process.report().items())
    return report
