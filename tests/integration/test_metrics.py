"""Metrics of a running fwd under traffic, as a scraper sees them. Real process, real HTTP, promtool as the judge."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.guests.short_dir import short_dir
from fastvhost.driver.guests import Guests
from tests.unit.forwarder import Forwarder, forwarder
from tests.unit.test_metrics import answer, connected

pytestmark = pytest.mark.alone  # a flood takes both CPUs
METRICS = ("--forward", "learn", "--metrics", "unix:m.sock")


def scraped(fwd: Forwarder) -> str:
    head, _, text = answer(connected(fwd.directory / "m.sock")).decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.0 200 OK"), head
    return text


def values(text: str, name: str) -> dict[str, float]:
    """Of one metric, by port."""
    families = text_string_to_metric_families(text)
    return {
        sample.labels["port"]: sample.value
        for family in families for sample in family.samples if sample.name == f"fastvhost_{name}"
    }  # fmt: skip


def test_figures_under_traffic_are_those_of_stats_and_promtool_has_nothing_to_say() -> None:
    with forwarder(*METRICS) as fwd:
        with Guests(*fwd.sockets) as guests:
            fwd.wait_for("frames both ways", lambda: all(one.frames > 1000 for one in guests.counters()))
            during = scraped(fwd)
        fwd.wait_for("both guests have gone", lambda: fwd.log.count(" disconnected: ") == 2)
        after, stats = scraped(fwd), fwd.stats()["ports"]
        assert values(after, "port_rx_frames_total") == {name: stats[name]["rx_frames"] for name in "ab"}
        assert values(after, "port_tx_bytes_total") == {name: stats[name]["tx_bytes"] for name in "ab"}
        assert min(values(during, "port_rx_frames_total").values()) > 0
        assert values(after, "table_addresses") == {"a": 1, "b": 1}
        assert values(during, "port_up") == {"a": 1, "b": 1}
        assert values(after, "port_up") == {"a": 0, "b": 0}
        assert values(during, "ring_size")
        assert not values(after, "ring_size")
        for text in (during, after):
            judged = subprocess.run(
                ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
            )
            assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")
        assert fwd.warnings == []
        assert fwd.end()[0] == 0
        assert not (fwd.directory / "m.sock").exists()


def test_another_fwd_has_metrics_of_its_own() -> None:
    with short_dir() as elsewhere, forwarder(*METRICS) as fwd:
        with forwarder("--metrics", f"unix:{elsewhere}/m.sock") as other:
            assert "fastvhost_table" not in answer(connected(elsewhere / "m.sock")).decode()
            assert other.end()[0] == 0
        assert "fastvhost_table" in scraped(fwd)
