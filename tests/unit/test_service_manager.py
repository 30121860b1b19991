"""What a service manager is told: sd_notify(3). The tests are its socket; a real systemd is in tests/integration."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.cli import reports
from fastvhost.cli.reports import Reports, Totals
from fastvhost.control.service_manager import ServiceManager
from fastvhost.control.switch import Switch
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST


class Manager:
    """A service manager's socket, and all messages that came so far."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.setblocking(False)

    def read(self) -> list[str]:
        while True:
            try:
                self.messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    def wait_for(self, line: str, after: int = 0) -> str:
        """The first message with a line that matches, beyond the first `after` ones."""

        def found() -> str | None:
            return next((one for one in self.read()[after:] if re.search(line, one, re.MULTILINE)), None)

        message = wait_until(f"/{line}/ in {self.messages}", MAX_WAIT, found)
        assert message
        return message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_dir() as path:
        yield path


@contextmanager
def managed(directory: Path, address: str, watchdog: str = "") -> Iterator[tuple[subprocess.Popen[bytes], Manager]]:
    """A fwd with ports a and b, started as a service."""
    manager = Manager(address)
    (directory / "c.toml").write_text('port = ["a.sock", "b.sock"]\nidle = "interrupt"\n')
    words = [*FASTVHOST, "fwd", "--config", "c.toml", "--control", "c.sock"]
    there = ENVIRONMENT | {"NOTIFY_SOCKET": address} | ({"WATCHDOG_USEC": watchdog} if watchdog else {})
    process = subprocess.Popen(words, cwd=directory, env=there, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process, manager
    finally:
        process.kill()
        process.communicate(timeout=MAX_WAIT)
        manager.close()


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_ready_is_said_once_all_ports_listen_and_stopping_before_they_do_not(directory: Path, abstract: bool) -> None:
    address = f"@{directory.name}" if abstract else str(directory / "notify")
    with managed(directory, address) as (process, manager):
        ready = manager.wait_for("^READY=1$")
        assert ready == "READY=1\nSTATUS=0 of 2 ports up (a, b down)"
        assert {path.name for path in directory.glob("?.sock")} == {"a.sock", "b.sock", "c.sock"}
        for path in ("a.sock", "b.sock"):
            with socket.socket(socket.AF_UNIX) as front_end:
                front_end.connect(str(directory / path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(MAX_WAIT) == 0
        assert manager.read()[-1] == "STOPPING=1\nSTATUS=SIGTERM: stopping"


def test_a_reload_begins_with_the_time_and_ends_with_ready_also_where_the_file_is_wrong(directory: Path) -> None:
    with managed(directory, str(directory / "notify")) as (process, manager):
        manager.wait_for("^READY=1$")
        refused = "; the last reload changed nothing, the log says why"
        for text, note in (('port = ["a.sock", "d.sock"]\nidle = "interrupt"\n', ""), ("port = 1\n", refused)):
            (directory / "c.toml").write_text(text)
            before, since = len(manager.read()), time.monotonic_ns() // 1000
            process.send_signal(signal.SIGHUP)
            manager.wait_for("^READY=1$", before)
            begins, ends = [one for one in manager.messages[before:] if "=1\n" in one]
            asked = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", begins)
            assert asked is not None
            assert since <= int(asked[1]) <= time.monotonic_ns() // 1000
            assert ends == f"READY=1\nSTATUS=0 of 2 ports up (a, d down){note}"


def test_newer_systemd_finds_a_handler_for_the_signal_of_a_reload(directory: Path) -> None:
    with managed(directory, str(directory / "notify")) as (process, manager):
        manager.wait_for("^READY=1$")
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s(\w+)$", status, re.MULTILINE)
        assert caught is not None
        assert int(caught[1], 16) & 1 << signal.SIGHUP - 1


def test_an_idle_fwd_is_said_to_be_alive_again_and_again(directory: Path) -> None:
    with managed(directory, str(directory / "notify"), watchdog="1500000") as (_, manager):
        manager.wait_for("^READY=1$")
        wait_until("four beats", MAX_WAIT, lambda: manager.read().count("WATCHDOG=1") >= 4)


def test_a_fwd_that_cannot_start_says_why(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(directory / "b.sock"))
        taken.listen()
        with managed(directory, str(directory / "notify")) as (process, manager):
            assert process.wait(MAX_WAIT) == 2
            assert not any("READY" in one for one in manager.read())


def test_no_child_inherits_what_the_manager_set() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    manager = ServiceManager.of(environment)
    assert (environment, manager.watchdog, manager.listens) == ({"A": "b"}, 0.001, True)


@pytest.mark.parametrize(
    ("usec", "pid"), [("1000", "1"), ("0", ""), ("", ""), ("-5", ""), ("x", ""), ("9" * 400, "")]
)
def test_a_watchdog_that_is_not_for_this_process_or_makes_no_sense_is_none(usec: str, pid: str) -> None:
    assert ServiceManager.of({"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}).watchdog is None


def test_without_a_manager_nothing_is_sent_or_said() -> None:
    manager = ServiceManager.of({"WATCHDOG_USEC": "1000"})
    said = [manager.ready("x"), manager.reloading(), manager.status("x"), manager.alive(), manager.stopping("x")]
    assert (said, manager.listens, manager.watchdog, manager.trouble) == ([False] * 5, False, None, "")


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative", "@", "/"])
def test_an_address_of_another_kind_is_refused_in_one_sentence(address: str) -> None:
    manager = ServiceManager(address)
    assert (manager.listens, manager.alive()) == (False, False)
    assert manager.trouble == f"NOTIFY_SOCKET={address}: only a path, or @NAME, is understood"


def test_a_manager_that_is_gone_is_told_of_once_it_matters(directory: Path) -> None:
    manager = ServiceManager(str(directory / "nobody"))
    assert not manager.ready("x")
    assert manager.trouble == "the service manager cannot be told that fwd runs: No such file or directory"


def test_a_manager_that_reads_nothing_delays_a_beat_not_at_all_and_ready_for_a_second(directory: Path) -> None:
    full = Manager(str(directory / "notify"))
    manager = ServiceManager(full.address)

    def seconds(action: Callable[[], object]) -> float:
        start = time.monotonic()
        action()
        return time.monotonic() - start

    while manager.alive():
        pass
    assert seconds(lambda: [manager.status("x") for _ in range(100)]) < 1
    assert seconds(lambda: manager.ready("x")) > 0.9
    assert manager.trouble == ""
    full.read()
    assert manager.ready("x")
    full.close()


@pytest.mark.parametrize(
    ("number", "down", "line"),
    [
        (2, [], "2 of 2 ports up"),
        (2, ["a"], "1 of 2 ports up (a down)"),
        (9, ["a", "b", "c"], "6 of 9 ports up (a, b, c down)"),
        (9, ["a", "b", "c", "d"], "5 of 9 ports up"),
        (2, ["\x1b[31m"], "1 of 2 ports up (\\x1b[31m down)"),
    ],
)
def test_a_status_names_ports_that_are_down_where_they_are_few(number: int, down: list[str], line: str) -> None:
    assert reports.ports(number, down) == line


def test_a_status_tells_rates_and_drops_and_counters_that_begin_anew_are_no_negative_rate() -> None:
    before, now = Totals(0.0, 1000, 64_000, 0), Totals(10.0, 1_001_000, 64_064_000, 100)
    assert reports.rates(before, now) == "100 k frames/s, 51.2 Mbit/s, 10 dropped/s"
    assert reports.rates(now, Totals(20.0, 0, 0, 0)) == "0 frames/s, 0 bit/s"


def test_a_refused_reload_stands_in_the_status_until_the_next_one_and_an_unchanged_status_is_not_sent_again(
    directory: Path,
) -> None:
    manager = Manager(str(directory / "notify"))
    with Switch("null:,name=a", "null:,name=b", idle="interrupt") as switch:
        now = time.monotonic()
        told = Reports(ServiceManager(manager.address), switch, now)
        (thread,) = switch.wiring.workers

        def look(seconds: float) -> None:
            rounds = thread.worker.rounds
            wait_until("a round of the worker", MAX_WAIT, lambda: thread.worker.rounds != rounds)
            told.look(now + seconds)

        told.ready()
        for later in (1, 2, 12, 23):
            look(later)
        assert manager.read() == [
            "READY=1\nSTATUS=2 of 2 ports up",
            "STATUS=2 of 2 ports up; 0 frames/s, 0 bit/s",
        ]
        told.reloading()
        told.reloaded(done=False)
        look(24)
        look(60)
        assert manager.read()[-2:] == [
            "READY=1\nSTATUS=2 of 2 ports up; the last reload changed nothing, the log says why",
            "STATUS=2 of 2 ports up; 0 frames/s, 0 bit/s",
        ]
    manager.close()


def test_ready_is_said_again_to_a_manager_that_did_not_read_and_that_delays_nobody(directory: Path) -> None:
    manager = Manager(str(directory / "notify"))
    beside = ServiceManager(manager.address)
    while beside.alive():
        pass
    with Switch("null:,name=a", "null:,name=b", idle="interrupt") as switch:
        told = Reports(ServiceManager(manager.address), switch, time.monotonic())
        told.ready(seconds=0.0)
        start = time.monotonic()
        for _ in range(20):
            told.look(time.monotonic())
        assert time.monotonic() - start < 1
        assert not any("READY" in one for one in manager.read())
        told.look(time.monotonic())
        assert manager.read()[-1].startswith(("READY=1\n", "STATUS="))
        assert any("READY" in one for one in manager.messages)
    manager.close()
