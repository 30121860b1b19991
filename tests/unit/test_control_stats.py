"""Counters as plain dictionaries and the rates made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastvhost.cli import render
from fastvhost.control import config, stats
from fastvhost.control.host import CorePlan
from fastvhost.control.switch import Switch
from tests.unit.fake_parts import REASONS, Fakes


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def switch(fakes: Fakes) -> Switch:
    settings = config.build({"port": ["a.sock", "b.sock"]})
    return Switch.of(settings, CorePlan((3,), frozenset({0}), frozenset({0})), fakes.parts())


def test_a_snapshot_is_plain_json_with_every_reason_even_at_zero(fakes: Fakes, switch: Switch) -> None:
    fakes.ports["a"].figures = {"rx_frames": 7, "rx_dropped": {"link_down": 2}}
    seen = json.loads(json.dumps(stats.snapshot(switch.wiring)))
    assert list(seen["ports"]) == ["a", "b"]
    assert seen["ports"]["a"]["rx_frames"] == 7
    assert seen["ports"]["a"]["rx_dropped"] == {"no_receive_buffers": 0, "link_down": 2}
    assert tuple(seen["ports"]["b"]["tx_dropped"]) == REASONS
    assert seen["workers"]["worker0"] == {
        "core": 3,
        "last_core": None,
        "wires": [["a", "b"], ["b", "a"]],
        "rounds": 0,
        "busy_rounds": 0,
        "busy_seconds": 0.0,
        "sleeps": 0,
        "waiting": 0,
    }


def later(before: dict[str, Any], seconds: float, **port: Any) -> dict[str, Any]:
    ports = {**before["ports"], "a": {**before["ports"]["a"], **port}}
    return {**before, "uptime": before["uptime"] + seconds, "ports": ports}


def test_rates_are_differences_per_second(switch: Switch) -> None:
    before = stats.snapshot(switch.wiring)
    now = later(before, 2.0, rx_frames=1000, rx_bytes=64000, tx_dropped={"no_receive_buffers": 4, "link_down": 6})
    spent = {"rounds": 400, "busy_rounds": 100, "busy_seconds": 0.5}
    now["workers"] = {"worker0": {**before["workers"]["worker0"], **spent}}
    rates = stats.with_rates(now, before)["rates"]
    assert rates["seconds"] == pytest.approx(2.0)
    assert rates["ports"]["a"]["rx_frames"] == pytest.approx(500)
    assert rates["ports"]["a"]["rx_bits"] == pytest.approx(256000)
    assert rates["ports"]["a"]["tx_dropped"] == pytest.approx(5)
    assert rates["ports"]["b"]["rx_frames"] == 0
    assert rates["workers"]["worker0"] == {"rounds": 200.0, "busy_rounds": 50.0, "sleeps": 0.0, "busy": 0.25}


def test_without_an_earlier_snapshot_there_are_no_rates(switch: Switch) -> None:
    now = stats.snapshot(switch.wiring)
    assert "rates" not in stats.with_rates(now, None)
    assert "rates" not in stats.with_rates(now, now)


def test_history_answers_with_rates_over_the_last_moments(switch: Switch, fakes: Fakes) -> None:
    history = stats.History(switch.wiring, spacing=0.0)
    for _ in range(10):
        history.tick()
    switch.wiring.started_at -= 1.0
    fakes.ports["a"].figures = {"rx_frames": 50}
    rates = history.current()["rates"]
    assert rates["seconds"] >= 1.0
    assert rates["ports"]["a"]["rx_frames"] * rates["seconds"] == pytest.approx(50, rel=0.001)


def test_the_table_names_each_drop_with_its_reason_and_side(switch: Switch, fakes: Fakes) -> None:
    fakes.ports["b"].figures = {"tx_dropped": {"no_receive_buffers": 12}}
    text = render.stats(stats.snapshot(switch.wiring))
    assert "dropped towards b: no_receive_buffers 12" in text
    assert "link_down" not in text
    assert "worker0: core 3, a>b b>a" in text
    assert len({line.index("down") for line in text.splitlines() if line.startswith(("a ", "b "))}) == 1
