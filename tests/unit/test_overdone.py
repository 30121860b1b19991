"""A port that has spent its share of changes or messages is logged: once, and again after a calm time."""

from __future__ import annotations

import contextlib
import logging
import select
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fastvhost.backend import advice, changes
from fastvhost.backend.changes import Changes
from fastvhost.backend.control_thread import ControlThread
from fastvhost.backend.narrative import Narrative, View
from fastvhost.vhostuser.message import Request
from tests.unit.fake_port import FakePort
from tests.unit.service_rig import Rig, until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Control(ControlThread):
    """A port whose front-end does what the test says within one turn."""

    def __init__(self, port: FakePort) -> None:
        super().__init__(port, Narrative(advice.by_listening("/s", "0600")))
        self.port, self.clock = port, Clock()
        self._changes = Changes(port, self.clock)
        self.messages = self.doors = 0
        self.open()

    def turn(self, *, messages: int = 0, doors: int = 0, seconds: float = 0.0) -> None:
        """Let `seconds` pass, then do this many changes or messages."""
        self.clock.now += seconds
        self.messages, self.doors = messages, doors
        self._port.happen("nothing")  # type: ignore[attr-defined]  # poll() returns
        self._turn()

    def _serve(self, ready: dict[int, int]) -> None:
        assert self.port.attention_fd in ready
        self.port.events()
        for _ in range(self.messages):
            self._changes.count_message()
        for _ in range(self.doors):
            self._changes.begin()
            self.port.set_link(not self.port.link)
            assert self._changes.settle()

    def _take(self) -> None:
        pass

    def _register(self, poller: select.poll, now: float) -> Iterable[float | None]:  # noqa: ARG002
        return ()

    def _view(self) -> View:
        raise AssertionError("nobody is there")

    def _drop(self, reason: str, level: int = logging.INFO) -> None:
        pass

    def _let_go(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def control() -> Control:
    return Control(FakePort("a"))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "its messages wait" in record.getMessage()]


DOORS = "port a: the front-end sets up or changes its rings and memory more than 100 times a second (1024 at once"
MESSAGES = "port a: the front-end sends more than 2000 messages a second (8192 at once"


@pytest.mark.parametrize(("spent", "words"), [({"doors": 1024}, DOORS), ({"messages": 8192}, MESSAGES)])
def test_a_port_that_spends_its_share_over_and_over_is_logged_once_with_reason_and_remedy(
    control: Control, caplog: pytest.LogCaptureFixture, spent: dict[str, int], words: str
) -> None:
    control.turn(**spent)
    assert len(told(caplog)) == 1
    assert told(caplog)[0].startswith(words)
    assert told(caplog)[0].endswith("and stop it")
    for _ in range(50):
        control.turn(seconds=1.0, **{what: n // 12 for what, n in spent.items()})
    assert len(told(caplog)) == 1


def test_a_spent_share_is_logged_again_after_a_calm_time(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    control.turn(doors=1024)
    control.turn(seconds=5.0, doors=600)  # of 500 that it had again
    assert len(told(caplog)) == 1
    control.turn(seconds=7.0, doors=1024)
    assert len(told(caplog)) == 2


def test_what_a_guest_of_128_queue_pairs_needs_is_not_logged(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        control.turn(seconds=10.0, messages=2000, doors=500)
    assert told(caplog) == []


def test_messages_of_a_real_front_end_wait_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MESSAGES_AT_ONCE", 20)
    monkeypatch.setattr(changes, "MESSAGES_A_SECOND", 0.01)
    rig = Rig(tmp_path / "s")
    with contextlib.closing(rig), contextlib.closing(rig.frontend()) as frontend:
        for _ in range(30):
            frontend.send(Request.SET_OWNER)
        until(lambda: told(caplog), 30.0)
        assert told(caplog)[0].startswith("port a: the front-end sends more than")
