"""Runs tests in parallel: two workers share the tests that measure nothing; those marked `alone` run after that.

A pytest plugin for pytest-xdist, which starts the workers (scripts/test says how many). One worker runs nothing until
the others have ended; then it runs the tests marked `alone`, so that these have the machine for themselves. A file is
never divided: its fixtures are made once. Without xdist all tests run one after the other, as pytest collects them.
"""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

RECORD = Path(__file__).parents[1] / "bench" / "results" / "test-time.jsonl"
LISTS = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
"""A file in which the workers write which tests run alone: xdist passes only names on. All workers write the same."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Called in the scheduler's process, before a worker is started."""
    lists = node.config.stash.setdefault(LISTS, tempfile.TemporaryDirectory(prefix="fv-"))
    node.workerinput["alone"] = str(Path(lists.name, node.gateway.id))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Called in a worker, before it reports what it has collected."""
    if worker := getattr(session.config, "workerinput", None):
        alone = [item.nodeid for item in session.items if item.get_closest_marker("alone")]
        Path(worker["alone"]).write_text(json.dumps(alone))


def pytest_unconfigure(config: pytest.Config) -> None:
    if lists := config.stash.get(LISTS, None):
        lists.cleanup()


def names_of_alone(config: pytest.Config) -> set[str]:
    lists = Path(config.stash[LISTS].name)
    return {name for path in lists.iterdir() for name in json.loads(path.read_text())}


def recorded_seconds() -> dict[str, float]:
    """The seconds of each file in the last recorded whole run (tests/times.py)."""
    if not RECORD.exists():
        return {}
    figures = [json.loads(line) for line in RECORD.read_text().splitlines()]
    return {figure["bench"]: figure["median"] for figure in figures if figure["bench"].endswith(".py")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        """Hands out files, the longest first. `workqueue` has the files that run in parallel."""

        def __init__(self, config: pytest.Config, log: Any) -> None:
            super().__init__(config, log)
            self._names: set[str] = set()
            """The names of the tests that run alone."""
            self._alone: OrderedDict[str, dict[str, bool]] = OrderedDict()
            """Files with these tests that have not begun."""
            self._reserved: WorkerController | None = None
            """The worker that runs them."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return f"{file} alone" if nodeid in self._names else file

        @property
        def tests_finished(self) -> bool:
            return not self._alone and super().tests_finished

        @property
        def has_pending(self) -> bool:
            return bool(self._alone) or super().has_pending

        def add_node(self, node: WorkerController) -> None:
            super().add_node(node)
            if self._reserved is None and self.numnodes > 1:
                self._reserved = node

        def remove_node(self, node: WorkerController) -> str | None:
            """A worker ended.

            The test that it was running when it crashed is not run again; the rest of its work is.
            """
            reserved, self._reserved = self._reserved, None if node is self._reserved else self._reserved
            units = self.assigned_work.pop(node)
            left = {scope: unit for scope, unit in units.items() if not all(unit.values())}
            crashed = next((name for unit in left.values() for name, done in unit.items() if not done), None)
            if crashed:
                left[self._split_scope(crashed)][crashed] = True
                (self._alone if node is reserved else self.workqueue).update(left)
            for each in self.nodes:
                self._reschedule(each)
            return crashed

        def schedule(self) -> None:
            if self.collection is None and self._check_nodes_have_same_collection():
                self.collection = list(next(iter(self.registered_collections.values())))
                self._fill_queues()
            for node in self.nodes:
                self._reschedule(node)

        def _fill_queues(self) -> None:
            # A single worker cannot wait for the others.
            self._names = names_of_alone(config) if self._reserved else set()
            units: dict[str, dict[str, bool]] = {}
            for nodeid in self.collection or ():
                units.setdefault(self._split_scope(nodeid), {})[nodeid] = False
            seconds = recorded_seconds()
            for scope in sorted(units, key=lambda scope: -seconds.get(scope, 0.0)):
                queue = self.workqueue if self._names.isdisjoint(units[scope]) else self._alone
                queue[scope] = units[scope]

        def _reschedule(self, node: WorkerController) -> None:
            if self.collection is None or node.shutting_down or node not in self.registered_collections:
                return
            if node is self._reserved:
                self._begin_alone(node)
                return
            while self.workqueue and self._pending_of(self.assigned_work[node]) <= 2:
                if not self._gave_work_to(node):
                    return
            if not self.workqueue:
                node.shutdown()  # when it has done what it was given

        def _gave_work_to(self, node: WorkerController) -> bool:
            """Hand out the next file. False: the worker has ended; remove_node comes next, and takes its work back."""
            try:
                self._assign_work_unit(node)
            except OSError:
                return False
            return True

        def _begin_alone(self, node: WorkerController) -> None:
            """Once no other worker has work: hand out all tests that run alone, and then end this worker."""
            if self._alone and (self.workqueue or len(self.nodes) > 1):
                return
            while self._alone:
                scope, unit = self._alone.popitem(last=False)
                self.assigned_work[node][scope] = unit
                mine = self.registered_collections[node]
                try:
                    node.send_runtest_some([mine.index(name) for name, done in unit.items() if not done])
                except OSError:
                    return  # as above
            node.shutdown()

    return Together(config, log)
