"""Findings of doctor about guests of running forwarders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastvhost.control import control_client, diagnosis, runtime_dir
from fastvhost.control.errors import RuntimeFailure
from fastvhost.control.kinds import vhost_user


def port(name: str, *features: str, kind: str = "vhost-user") -> dict[str, Any]:
    return {"name": name, "kind": kind, "features": list(features)}


RUNNING: dict[str, Any] = {
    "/run/fwd-1.sock": [
        port("a", "VERSION_1"),
        port("b", "VERSION_1", "RING_RESET"),
        port("f", "RING_RESET", kind="cuse"),
    ],
    "/run/fwd-2.sock": [{"name": "t", "kind": "tap"}, port("c", "RING_RESET")],
    "/run/fwd-3.sock": RuntimeFailure("no answer"),
    "/run/fwd-4.sock": ["no port", None, {"kind": "vhost-user", "features": None}],
    "/run/fwd-5.sock": 5,
}


def ask(control: str, command: str, **_from: object) -> Any:
    assert command == "show"
    if isinstance(answer := RUNNING[control], Exception):
        raise answer
    return answer


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The control sockets that are found."""
    found: list[Path] = []
    monkeypatch.setattr(runtime_dir, "sockets", lambda: found)
    monkeypatch.setattr(control_client, "ask", ask)
    return found


def test_guests_from_before_a_bit_was_withdrawn_are_named_whatever_else_is_answered(running: list[Path]) -> None:
    """Of vhost-user ports: vhost-net's device file is told of resets."""
    running.extend(map(Path, RUNNING))
    finding = vhost_user.earlier_guests()
    assert finding.verdict == "note"
    assert finding.text.startswith("guests at b, c have RING_RESET")
    assert "QEMU" in finding.remedy


def test_without_such_guests_all_is_well(running: list[Path]) -> None:
    assert vhost_user.earlier_guests().verdict == "ok"
    running.append(Path("/run/fwd-3.sock"))
    assert vhost_user.earlier_guests().verdict == "ok"


def test_what_a_guest_cannot_take_back_is_said_with_the_remedy() -> None:
    assert "for XDP: without=GUEST_CSUM at the port" in diagnosis.receive_offloads().text
