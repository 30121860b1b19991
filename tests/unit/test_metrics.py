"""The figures of a running fwd as Prometheus metrics, and the server that gives them out."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import config, metrics_server
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.host import CorePlan
from fastvhost.control.metrics import FwdCollector
from fastvhost.control.metrics_address import MetricsAddress
from fastvhost.control.metrics_address import parse as parse_address
from fastvhost.control.metrics_server import MetricsServer
from fastvhost.control.switch import Switch
from tests.unit.fake_parts import Fakes
from tests.unit.forwarder import fastvhost

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


# The text


def figures_of(forward: str) -> tuple[CollectorRegistry, Fakes]:
    fakes = Fakes()
    settings = config.build({"port": ["a.sock", "b.sock"], "forward": forward})
    switch = Switch.of(settings, CorePlan((3,), frozenset({0}), frozenset({0})), fakes.parts())
    collectors = CollectorRegistry()
    collectors.register(FwdCollector(switch.counters, lambda: [{"name": "a", "rings": RINGS}, {"name": "b"}]))
    return collectors, fakes


def ring(index: int, size: int = 256, **more: Any) -> dict[str, Any]:
    return {
        "index": index, "size": size, "available": 6, "broken": "", "frames": 0, "kicks": 0, "starved_seconds": 0.0,
        **more
    }  # fmt: skip


RINGS = [ring(0, available=255), ring(1, broken="a loop", kicks=9), ring(2, size=0)]


def samples(registry: CollectorRegistry) -> Samples:
    found: Samples = {}
    for family in parse(generate_latest(registry).decode()):
        for sample in family.samples:
            found[sample.name.removeprefix("fastvhost_"), tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_frames_bytes_and_drops_are_counters_of_a_port() -> None:
    registry, fakes = figures_of("patch")
    fakes.ports["a"].link_up = True
    fakes.ports["a"].figures = {"rx_frames": 7, "tx_bytes": 640, "calls": 3, "rx_dropped": {"link_down": 2}}
    seen = samples(registry)
    assert seen["port_rx_frames_total", (("port", "a"),)] == 7
    assert seen["port_tx_bytes_total", (("port", "a"),)] == 640
    assert seen["port_notifications_total", (("port", "a"),)] == 3
    assert seen["port_up", (("kind", "vhost-user"), ("port", "a"))] == 1
    assert (seen["ports", (("state", "up"),)], seen["ports", (("state", "down"),)]) == (1, 1)
    dropped = "port_dropped_frames_total"
    assert seen[dropped, (("direction", "rx"), ("port", "a"), ("reason", "link_down"))] == 2
    assert seen[dropped, (("direction", "tx"), ("port", "b"), ("reason", "no_receive_buffers"))] == 0


def test_a_ring_has_its_fill_and_a_ring_that_is_not_set_up_is_left_out() -> None:
    seen = samples(figures_of("patch")[0])
    receiveq = (("pair", "0"), ("port", "a"), ("queue", "receiveq"))
    transmitq = (("pair", "0"), ("port", "a"), ("queue", "transmitq"))
    assert (seen["ring_available", receiveq], seen["ring_available", transmitq]) == (255, 6)
    assert (seen["ring_broken", receiveq], seen["ring_broken", transmitq]) == (0, 1)
    assert seen["ring_kicks_total", transmitq] == 9
    assert {labels for name, labels in seen if name == "ring_size"} == {receiveq, transmitq}


def test_a_table_has_figures_in_a_switch_alone() -> None:
    along_wires, switched = samples(figures_of("patch")[0]), samples(figures_of("learn")[0])
    assert not [name for name, _ in along_wires if name.startswith("table")]
    assert switched["table_addresses", (("port", "a"),)] == 0
    assert switched["table_refused_total", (("port", "b"), ("reason", "at_limit"))] == 0


def test_a_worker_that_is_not_pinned_has_no_core() -> None:
    registry, fakes = figures_of("patch")
    fakes.workers[0].rounds = 12
    seen = samples(registry)
    assert seen["worker_rounds_total", (("worker", "worker0"),)] == 12
    assert seen["worker_core", (("worker", "worker0"),)] == 3


def test_the_newer_text_format_takes_every_name_too() -> None:
    text = exposition.generate_latest(figures_of("learn")[0]).decode()
    assert {family.name for family in parse_openmetrics(text)} >= {"fastvhost_port_rx_frames", "fastvhost_ports"}


# Where


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464, ""),
        (":9464", "127.0.0.1", 9464, ""),
        ("9464", "127.0.0.1", 9464, ""),
        ("0.0.0.0:1", "0.0.0.0", 1, ""),
        ("[::1]:65535", "::1", 65535, ""),
        ("unix:/run/m.sock", "", 0, "/run/m.sock"),
    ],
)
def test_an_address_is_of_the_loopback_interface_unless_it_says_otherwise(
    text: str, host: str, port: int, path: str
) -> None:
    assert parse_address(text) == MetricsAddress(host, port, path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no port"),
        ("127.0.0.1", "no port"),
        ("127.0.0.1:0", "no port"),
        ("127.0.0.1:65536", "no port"),
        ("127.0.0.1:x", "no port"),
        ("::1:9464", "stands in brackets"),
        ("[127.0.0.1]:9464", "stands in brackets"),
        ("localhost:9464", "'localhost' is no IP address"),
        ("unix:", "no path"),
        (9464, "a text is wanted"),
    ],
)
def test_what_is_no_address_is_refused_with_one_that_is(text: object, reason: str) -> None:
    with pytest.raises(UsageError, match=f"--metrics .*{reason}"):
        parse_address(text)


def test_the_socket_of_a_port_is_not_the_socket_of_the_metrics() -> None:
    with pytest.raises(UsageError, match=r"--metrics ./a.sock: port 'a' has this socket"):
        config.build({"port": ["a.sock", "b.sock"], "metrics": "unix:./a.sock"})
    with pytest.raises(UsageError, match=r"--metrics c.sock: --control has this socket"):
        config.build({"port": ["a.sock", "b.sock"], "control": "c.sock", "metrics": "unix:c.sock"})


# The server


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_dir() as path:
        yield path


@contextlib.contextmanager
def serving(address: MetricsAddress, app: Callable[..., Any] | None = None) -> Iterator[MetricsServer]:
    server = MetricsServer(address, app or make_wsgi_app(figures_of("patch")[0]))
    server.start()
    yield server
    assert server.stop(MAX_WAIT)


def connected(path: Path) -> socket.socket:
    asking = socket.socket(socket.AF_UNIX)
    asking.settimeout(MAX_WAIT)
    asking.connect(str(path))
    return asking


def answer(asking: socket.socket, request: bytes = b"GET /metrics HTTP/1.0\r\n\r\n") -> bytes:
    """All that comes until the other side closes; nothing where it ended the connection."""
    told = b""
    with asking, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        asking.sendall(request)
        while more := asking.recv(65536):
            told += more
    return told


def test_a_request_is_answered_over_a_socket_with_a_file_and_over_tcp(directory: Path) -> None:
    path = directory / "m.sock"
    with serving(MetricsAddress(path=str(path))):
        assert path.stat().st_mode & 0o777 == 0o660
        assert b"fastvhost_port_rx_frames_total" in answer(connected(path))
    assert not path.exists()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as found:
        port = found.getsockname()[1]
    with serving(MetricsAddress("127.0.0.1", port)):
        told = answer(socket.create_connection(("127.0.0.1", port), MAX_WAIT))
        assert told.startswith(b"HTTP/1.0 200 OK")
        assert b"fastvhost_ports" in told
        refusal = pytest.raises(RuntimeFailure, match=rf"--metrics 127.0.0.1:{port}: cannot listen there: .*in use; ")
        with refusal:
            MetricsServer(MetricsAddress("127.0.0.1", port), make_wsgi_app())


def test_a_path_with_a_file_that_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "m.sock"
    path.write_text("mine")
    with pytest.raises(RuntimeFailure, match=r"m.sock: exists and is no socket; remove it or name another place"):
        MetricsServer(MetricsAddress(path=str(path)), make_wsgi_app())
    assert path.read_text() == "mine"


def test_silent_clients_hold_up_nobody_and_are_ended(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CLIENT_SECONDS", 0.6)
    monkeypatch.setattr(metrics_server, "LOOK_SECONDS", 0.05)
    path = directory / "m.sock"
    with serving(MetricsAddress(path=str(path))) as server:
        silent = [connected(path) for _ in range(metrics_server.MOST_CLIENTS - 1)]
        silent[0].sendall(b"GET /metr")
        wait_until("seven that say nothing", MAX_WAIT, lambda: server.answering == len(silent))
        assert b" 200 OK" in answer(connected(path))
        one_more = connected(path)
        wait_until("eight", MAX_WAIT, lambda: server.answering == metrics_server.MOST_CLIENTS)
        assert answer(connected(path)) == b""  # one too many
        for one in (*silent, one_more):
            assert one.recv(1) == b""  # it had its time
            one.close()
        assert b" 200 OK" in answer(connected(path))


def test_a_client_that_trickles_is_ended_as_well(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CLIENT_SECONDS", 0.5)
    monkeypatch.setattr(metrics_server, "LOOK_SECONDS", 0.05)
    path = directory / "m.sock"
    with serving(MetricsAddress(path=str(path))), connected(path) as asking, pytest.raises(OSError):  # noqa: PT012
        end = time.monotonic() + MAX_WAIT
        while time.monotonic() < end:
            asking.sendall(b"X")
            time.sleep(0.05)


def test_it_stops_while_a_client_is_silent(directory: Path) -> None:
    path = directory / "m.sock"
    with serving(MetricsAddress(path=str(path))) as server:
        silent = connected(path)
        wait_until("it is there", MAX_WAIT, lambda: server.answering == 1)
        server.withdraw()
        assert not path.exists()
    assert silent.recv(1) == b""
    silent.close()
    wait_until("its thread ends", MAX_WAIT, lambda: "metrics-answer" not in [one.name for one in threading.enumerate()])


def test_an_error_of_ours_is_answered_with_500_and_logged_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_environ: object, _start: object) -> list[bytes]:
        raise ZeroDivisionError("figures")

    path = directory / "m.sock"
    with caplog.at_level(logging.ERROR), serving(MetricsAddress(path=str(path)), broken):
        for _ in range(2):
            assert b" 500 " in answer(connected(path))
    assert [record.message for record in caplog.records] == [
        "metrics: internal error ZeroDivisionError: figures; they are left out, and this is a defect, please report it"
    ]


def test_without_the_library_the_option_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"not installed; pip install 'fastvhost\[metrics\]'"):
        metrics_server.make(MetricsAddress("127.0.0.1", 1), dict, list)


def test_wrong_options_leave_with_2_and_one_line(directory: Path) -> None:
    taken = directory / "m.sock"
    taken.touch()
    ports = ("--port", "a.sock", "--port", "b.sock")
    for words in (("--metrics", "x"), ("--metrics", "unix:m.sock"), ("--metrics", f"unix:{directory}/none/m.sock")):
        done = fastvhost("fwd", *ports, *words, "--check", cwd=directory)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
