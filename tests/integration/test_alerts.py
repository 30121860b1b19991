"""The alert rules and the dashboard of deploy/: a real Prometheus scrapes a real fwd whose guests misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, WaitedTooLong, wait_until
from tests.driver import Piece
from tests.frontend import Guest
from tests.unit.forwarder import Forwarder, forwarder
from tests.unit.rig import frame

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "fastvhost.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "fastvhost.json"
NAME = re.compile(r"fastvhost_\w+")
CONFIGURATION = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
scrape_configs: [{{job_name: fastvhost, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


class Prometheus:
    """A server that scrapes one target five times a second."""

    def __init__(self, directory: Path, target: int, rules: str) -> None:
        self.port = free_port()
        (directory / "rules.yml").write_text(rules)
        (directory / "prometheus.yml").write_text(CONFIGURATION.format(port=target))
        command = [
            "prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error",
        ]  # fmt: skip
        with (directory / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        self.log = directory / "prometheus.log"

    def ask(self, what: str, **words: str) -> Any:
        """An answer of its API; None while it starts."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=MAX_WAIT) as answer:
            return json.load(answer)["data"]
        return None

    def targets(self) -> list[tuple[str, str]]:
        """How its scrapes went: health, and the last error."""
        return [(one["health"], one["lastError"]) for one in self.ask("targets")["activeTargets"]]

    def firing(self) -> set[tuple[str, str, str]]:
        """Alerts: name, port, queue."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("port", ""), alert["labels"].get("queue", ""))
            for alert in (self.ask("alerts") or {"alerts": ()})["alerts"] if alert["state"] == "firing"
        }  # fmt: skip


@contextlib.contextmanager
def scraping(target: int, rules: str) -> Iterator[Prometheus]:
    with short_dir() as directory:
        server = Prometheus(directory, target, rules)
        try:
            yield server
        finally:
            server.process.kill()
            server.process.wait()


def sooner(rules: str) -> str:
    """The same rules for a test of seconds."""
    return re.sub(r"\[\dm\]", "[2s]", re.sub(r"for: \w+", "for: 400ms", rules))


@contextlib.contextmanager
def guests(fwd: Forwarder) -> Iterator[tuple[Guest, Guest]]:
    with contextlib.ExitStack() as closing:
        made = [Guest.boot(path) for path in fwd.sockets]
        for guest in made:
            closing.callback(guest.close)
        yield made[0], made[1]


def await_alert(alert: tuple[str, str, str], server: Prometheus, fwd: Forwarder) -> None:
    try:
        wait_until(f"{alert[0]} fires", MAX_WAIT, lambda: alert in server.firing())
    except WaitedTooLong as error:
        told = server.targets(), server.ask("alerts"), fwd.stats()
        raise AssertionError(f"{error}; {told}") from None


def test_alerts_fire_on_a_starved_ring_and_on_a_broken_ring_and_a_dashboard_s_queries_find_something() -> None:
    port = free_port()
    options = ("--metrics", str(port), "--forward", "learn", "--hold-timeout", "60s")
    with forwarder(*options) as fwd, scraping(port, sooner(RULES.read_text())) as server, guests(fwd) as (a, b):
        for name in "ab":
            fwd.wait_log(f"port {name}: rings 0 1 running")    # before that, frames for it drop as ring_disabled
        b.net.send(frame(0)[6:12] + frame(0)[:6] + frame(0)[12:])  # so that its address is known
        fwd.wait_for("b's address", lambda: fwd.stats()["ports"]["b"]["learning"]["addresses"])
        for number in range(3):
            a.net.send(frame(number))
        starved = ("FastvhostReceiveRingStarved", "b", "receiveq")
        await_alert(starved, server, fwd)
        assert server.firing() == {starved}
        queue = a.queues[1]
        queue.make_available(queue.chain([Piece(queue.memory.take(64), 64, writable=True)]))  # a device only reads it
        broken = ("FastvhostRingBroken", "a", "transmitq")
        await_alert(broken, server, fwd)
        names = set(server.ask("label/__name__/values"))
        assert set(NAME.findall(RULES.read_text() + DASHBOARD.read_text())) <= names
        for expression in expressions():
            assert server.ask("query", query=expression)["resultType"] == "vector", expression


def expressions() -> list[str]:
    """The queries of the dashboard, with values for its variables."""
    texts = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    for variable, value in (("$instance", ".*"), ("$port", ".*"), ("$__rate_interval", "2s")):
        texts = [text.replace(variable, value) for text in texts]
    assert not [text for text in texts if "$" in text]
    return texts


def judged(*words: str, directory: Path) -> str:
    done = subprocess.run(
        ["promtool", *words], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


RULE_TESTS = """
rule_files: [fastvhost.rules.yml]
evaluation_interval: 5s
tests:
  - interval: 5s
    input_series:
      - {series: 'fastvhost_ring_starved_seconds_total{port="a",queue="receiveq",pair="0"}', values: '0+0.25x60'}
      - {series: 'fastvhost_ring_starved_seconds_total{port="b",queue="receiveq",pair="0"}', values: '0+1x60'}
      - {series: 'fastvhost_ring_broken{port="a",queue="transmitq",pair="1"}', values: '0x3 1x57'}
      - {series: 'fastvhost_port_dropped_frames_total{port="b",direction="tx",reason="link_down"}', values: '0+900x240'}
      - {series: 'fastvhost_port_dropped_frames_total{port="b",direction="tx",reason="runt"}', values: '0+900x240'}
    alert_rule_test:
      - {eval_time: 15s, alertname: FastvhostRingBroken}
      - eval_time: 30s
        alertname: FastvhostRingBroken
        exp_alerts:
          - exp_labels: {severity: critical, port: a, queue: transmitq, pair: "1"}
            exp_annotations:
              summary: "port a: transmitq 1 is broken and stopped"
              description: >-
                Its driver broke a rule of the ring; fastvhost show a names it. The ring runs again once the driver sets
                it up anew (in the guest, take the interface down and up, or unbind and bind its driver).
      - {eval_time: 30s, alertname: FastvhostReceiveRingStarved}
      - eval_time: 3m
        alertname: FastvhostReceiveRingStarved
        exp_alerts:
          - exp_labels: {severity: warning, port: b, queue: receiveq, pair: "0"}
            exp_annotations:
              summary: "port b: no receive buffers for 20% of the time"
              description: >-
                The guest does not give buffers back as fast as frames come. Larger rings (rx_queue_size=1024), more
                queue pairs, or more CPU time for this guest.
      - eval_time: 15m
        alertname: FastvhostFramesDropped
        exp_alerts:
          - exp_labels: {severity: warning, port: b, direction: tx, reason: runt}
            exp_annotations:
              summary: "port b (tx): 180 frames a second drop as runt"
              description: The README has each reason with its remedy ("Why a frame was dropped").
"""


def test_a_rule_fires_after_its_time_and_beyond_its_bound_alone() -> None:
    with short_dir() as directory:
        (directory / RULES.name).write_text(RULES.read_text())
        (directory / "tests.yml").write_text(RULE_TESTS)
        assert "6 rules found" in judged("check", "rules", RULES.name, directory=directory)
        judged("test", "rules", "tests.yml", directory=directory)


def test_panels_of_the_dashboard_have_an_unlike_number_and_a_place_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)
