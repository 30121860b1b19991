"""Hostile and failing front-ends, and internal errors: the control thread ends the connection and goes on."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend.logbook import BURST, PER_SECOND
from fastvhost.backend.payload import U64, VringState
from fastvhost.vhostuser import service, transport
from fastvhost.vhostuser.message import HEADER, Request
from tests.frontend import NEED_REPLY, Closed
from tests.unit.service_rig import Rig, count_turns, run_a_ring, until
from tests.unit.session_bench import MODERN


def test_half_a_message_delays_neither_stop_nor_kicks_nor_events(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_WAIT", 3 * MAX_WAIT)  # nobody waits for the rest of it
    frontend = rig.frontend()
    run_a_ring(frontend)
    frontend.send_raw(struct.pack("=IIII", Request.SET_FEATURES, 1, 8, 0))
    rig.port.happen("broken", 0, "a loop")
    until(lambda: rig.service.describe()["rings"][0]["broken"] == "a loop")
    rig.service.stop(MAX_WAIT)
    frontend.close()


def test_half_a_message_and_silence_frees_the_port_after_a_second(rig: Rig) -> None:
    assert transport.MAX_WAIT == 1.0
    silent = rig.frontend()
    silent.send_raw(struct.pack("=III", Request.SET_FEATURES, 1, 8) + b"half")
    assert silent.wait_closed()
    honest = rig.frontend()
    assert honest.ask_u64(Request.GET_QUEUE_NUM) == 1
    honest.close()
    silent.close()


def test_replies_that_are_not_read_end_the_connection(rig: Rig) -> None:
    frontend = rig.frontend()
    frontend.sock.settimeout(MAX_WAIT)
    request = struct.pack("=III", Request.GET_FEATURES, 1, 0)
    with contextlib.suppress(Closed):
        while True:
            frontend.send_raw(request * 100)
    frontend.close()
    until(lambda: rig.state == "listening")


def lines_of_a_storm(begun: float) -> float:
    """The most that the log may have of one kind since then, and some other lines."""
    return BURST + PER_SECOND * (time.monotonic() - begun) + 20


def test_a_storm_of_refusals_is_answered_and_logs_little(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    frontend = rig.frontend()
    begun = time.monotonic()
    frontend.send(Request.SET_PROTOCOL_FEATURES, U64(1 << 3).encode())
    with caplog.at_level(logging.INFO, "fastvhost"):
        for _ in range(100):
            frontend.send_raw(struct.pack("=IIIQ", Request.NET_SET_MTU, 1 | NEED_REPLY, 8, 1) * 10)
            for _ in range(10):
                assert frontend.receive().payload == U64(1).encode()
    assert len(caplog.records) < lines_of_a_storm(begun)
    frontend.close()


def test_a_flood_of_connections_logs_little_and_is_survived(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    first = rig.frontend()
    begun = time.monotonic()
    first.ask_u64(Request.GET_QUEUE_NUM)
    with caplog.at_level(logging.INFO, "fastvhost"):
        for _ in range(500):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            with contextlib.suppress(BlockingIOError):  # the queue is full
                sock.connect(str(rig.path))
            sock.close()
        assert first.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert len(caplog.records) < lines_of_a_storm(begun)
    first.close()


def test_an_error_of_ours_costs_one_connection_and_not_the_thread(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(directory / "a.sock")
    frontend = rig.frontend()
    frontend.ask_u64(Request.GET_QUEUE_NUM)
    rig.port.error = RuntimeError("a port that fails")
    with caplog.at_level(logging.INFO, "fastvhost"):
        frontend.send(Request.SET_FEATURES, U64(MODERN).encode())
        assert frontend.wait_closed()
        until(lambda: any("internal error RuntimeError: a port that fails" in text for text in caplog.messages))
        rig.port.error = None
    fresh = rig.frontend()
    assert fresh.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert rig.threads[0].is_alive()
    assert rig.service.defects
    fresh.close()
    frontend.close()
    rig.close()


def test_a_port_that_always_fails_does_not_make_the_thread_spin(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(directory / "a.sock")
    rig.port.error = RuntimeError("a port that fails")
    start = time.monotonic()
    turns = count_turns(rig, monkeypatch)
    while time.monotonic() < start + 1.2:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.1)
            sock.connect(str(rig.path))
            sock.send(HEADER.pack(Request.SET_OWNER, 1, 0))
            sock.recv(1)  # the end of the connection
        time.sleep(0.05)
    until(lambda: rig.service.defects)
    # It rests for a quarter of a second after each; one that spins makes thousands of turns a second.
    seconds = time.monotonic() - start
    assert rig.service.defects < 20 + 40 * seconds
    assert len(turns) < 40 + 160 * seconds
    rig.port.error = None
    rig.close()


def test_guest_memory_that_vanished_ends_the_connection_with_its_reason(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    with caplog.at_level(logging.INFO, "fastvhost"):
        rig.port.happen("faulted", -1, "guest memory vanished")
        assert frontend.wait_closed()
        # Logged at the end of the thread's turn, when the state has long changed.
        until(lambda: "port a: disconnected: guest memory vanished; listening again" in caplog.messages)
    frontend.close()


def test_the_log_of_a_whole_life_has_no_warning(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "fastvhost"):
        rig = Rig(directory / "a.sock")
        frontend = rig.frontend()
        run_a_ring(frontend)
        rig.port.happen("first_frame")
        until(lambda: rig.state == "first packet")
        frontend.ask(Request.GET_VRING_BASE, VringState(0, 0).encode())
        frontend.close()
        until(lambda: rig.state == "listening")
        rig.close()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    steps = [text.removeprefix("port a: ").split()[0] for text in caplog.messages]
    assert steps == ["listening", "connected", "features", "memory", "rings", "first", "rings", "disconnected:"]


def test_a_front_end_that_cannot_be_notified_is_refused_in_words_and_the_next_one_served(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    with caplog.at_level(logging.INFO, "fastvhost"):
        rig.port.stuck = "its call or err descriptors block"
        rig.port.happen("started")
        assert frontend.wait_closed()
        said = "port a: disconnected: its call or err descriptors block; listening again"
        until(lambda: said in caplog.messages)
    frontend.close()
    honest = rig.frontend()
    run_a_ring(honest)
    honest.close()


VISITS = 4 + 20 + service.ACCEPTS_PER_TURN
"""Visits that take a second, where the last of them are taken in one turn."""


def few_idle_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at once, then twenty a second."""
    monkeypatch.setattr(service, "IDLE_VISITS_AT_ONCE", 4)
    monkeypatch.setattr(service, "IDLE_VISITS_A_SECOND", 20)


def test_connections_that_end_before_their_first_ring_are_taken_so_many_a_second(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_idle_visits(monkeypatch)
    rig = Rig(directory / "a.sock")
    started = time.monotonic()
    for _ in range(VISITS):
        rig.frontend().close()  # waits while the socket's queue is full
    frontend = rig.frontend()
    run_a_ring(frontend)  # an honest one waits for its turn behind them, no longer
    assert time.monotonic() - started > 0.9
    frontend.close()
    rig.close()


def test_a_second_front_end_counts_like_one_that_left_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_idle_visits(monkeypatch)
    rig = Rig(directory / "a.sock")
    first = rig.frontend()
    run_a_ring(first)
    started = time.monotonic()
    for _ in range(VISITS):
        rig.frontend().close()
    last = rig.frontend()
    assert last.wait_closed()
    assert time.monotonic() - started > 0.9
    last.close()
    first.close()
    rig.close()


def test_connections_that_had_a_ring_are_taken_at_once_however_many(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_idle_visits(monkeypatch)
    monkeypatch.setattr(service, "IDLE_VISITS_A_SECOND", 0.1)
    rig = Rig(directory / "a.sock")
    for _ in range(30):
        frontend = rig.frontend()
        run_a_ring(frontend)
        frontend.close()
        until(lambda: rig.state == "listening")
    rig.close()
