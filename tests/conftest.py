"""No test is ever skipped: a run with a skipped test fails."""

from __future__ import annotations

import os
import signal

import pytest

from bench.guests.cores import ANYWHERE

pytest_plugins = ["tests.times", "tests.together", "tests.quick"]

LONG_ENDURANCE = 4.0
"""With --long, how many times longer repeating tests run. For hostile tests see tests/hostile/conftest.py."""
NOT_RUN = ("skipped", "xfailed", "xpassed")

os.environ[ANYWHERE] = "1"


def pytest_configure() -> None:
    """Handle signals that are ignored here (under nohup, after a script's `&`): children would ignore them, too.

    A signal with a handler, even one that does nothing, is not ignored by children (execve(2)).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="tests that repeat something run longer")


def endurance(config: pytest.Config) -> float:
    """The factor by which repeating tests run longer than usual."""
    return LONG_ENDURANCE if config.getoption("--long") else 1.0


def not_run(config: pytest.Config) -> int:
    """Tests that were skipped or expected to fail."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return sum(len(reporter.stats.get(kind, ())) for kind in NOT_RUN) if reporter else 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not_run(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := not_run(config):
        terminalreporter.write_line(f"FAILED: {count} tests were skipped or expected to fail; none may be", red=True)
