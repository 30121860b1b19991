"""The control thread of a port: one front-end at a time, everybody else turned away, and nothing that ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.frontend import control_thread
from fastvhost.frontend.errors import ServiceError
from fastvhost.frontend.payload import U64, VringState
from fastvhost.vhostuser import endpoint
from fastvhost.vhostuser.message import MemoryTable, Request, VringFd
from fastvhost.vhostuser.service import VhostUserService
from tests.frontend import NEED_REPLY, Closed, Frontend
from tests.unit.fake_port import FAKE_MEMORY, FakeMapping, FakePort
from tests.unit.session_bench import MODERN, REGION, open_fds


def until(condition: Callable[[], Any], timeout: float = 2.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


class Rig:
    """A running service and what it costs."""

    def __init__(self, path: Path, mode: Any = "server", **settings: Any) -> None:
        self.path = path
        self.port = FakePort("a")
        self.service = VhostUserService(str(path), self.port, mode=mode, memory=FAKE_MEMORY, **settings)
        self.service.open()
        self.service.start()
        self.threads = [thread for thread in threading.enumerate() if thread.name == "control a"]

    @property
    def state(self) -> str:
        return str(self.service.describe()["state"])

    def frontend(self) -> Frontend:
        return Frontend.connect(self.path)

    def close(self) -> None:
        self.service.stop()
        self.port.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: that may be too long for a socket.
    path = Path(tempfile.mkdtemp(prefix="fv"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def rig(directory: Path) -> Iterator[Rig]:
    before, mappings = open_fds(), FakeMapping.open
    rig = Rig(directory / "a.sock")
    yield rig
    rig.close()
    assert rig.service.defects == 0
    assert open_fds() == before
    assert FakeMapping.open == mappings


def run_a_ring(frontend: Frontend) -> None:
    """The shortest way to a live ring."""
    memory, kick = os.memfd_create("guest"), os.eventfd(1)
    os.ftruncate(memory, REGION.bytes)
    try:
        frontend.send(Request.SET_PROTOCOL_FEATURES, U64(1 << 3).encode())
        frontend.reply_ack = True
        frontend.tell(Request.SET_FEATURES, U64(MODERN).encode())
        frontend.tell(Request.SET_MEM_TABLE, MemoryTable((REGION,)).encode(), [memory])
        frontend.tell(Request.SET_VRING_NUM, VringState(0, 256).encode())
        address = REGION.user_addr
        frontend.tell(Request.SET_VRING_ADDR, struct.pack("=IIQQQQ", 0, 0, address, address, address, 0))
        frontend.tell(Request.SET_VRING_KICK, VringFd(0, False).encode(), [kick])
        frontend.tell(Request.SET_VRING_ENABLE, VringState(0, 1).encode())
    finally:
        os.close(memory)
        os.close(kick)


# A worker that does not come to the door


def stuck() -> WorkerStuckError:
    return WorkerStuckError("a worker did not park within 5 s; its core may be overloaded")


def test_a_front_end_that_ends_while_a_worker_is_stuck_leaves_a_port_that_serves_again_once_that_is_back(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_thread, "RETRY", 0.05)
    caplog.set_level(logging.INFO, "fastvhost")
    first = rig.frontend()
    run_a_ring(first)
    until(lambda: rig.state == "rings")
    rig.port.error = stuck()
    first.close()
    until(lambda: "no guest is served here until it is back" in caplog.text)
    # The next one waits: what it set up would meet rings that a worker still sees.
    second = rig.frontend()
    second.send(Request.GET_FEATURES)
    with pytest.raises(TimeoutError):
        second.receive()
    assert rig.port.live
    assert caplog.text.count("did not park") == 1
    rig.port.error = None
    until(lambda: "guests are served again" in caplog.text)
    assert rig.port.live == {}
    assert second.receive().request == Request.GET_FEATURES
    run_a_ring(second)
    until(lambda: rig.state == "rings")
    second.close()
    until(lambda: rig.state == "listening")


# A front-end's life


def test_a_front_end_is_served_and_its_end_leaves_nothing(rig: Rig) -> None:
    assert rig.state == "listening"
    before = len(open_fds())
    frontend = rig.frontend()
    run_a_ring(frontend)
    until(lambda: rig.port.of("kick_queue") == [(0,)])
    assert rig.state == "rings"
    frontend.close()
    until(lambda: rig.port.names()[-1] == "set_memory" and rig.state == "listening")
    assert rig.port.live == {}
    assert rig.port.of("set_memory")[-1] == (None,)
    assert rig.port.of("set_link") == [(True,), (False,)]
    assert len(open_fds()) == before


def test_a_hundred_connections_leave_no_file_descriptor_and_no_mapping(rig: Rig) -> None:
    before = len(open_fds())
    for _ in range(100):
        frontend = rig.frontend()
        run_a_ring(frontend)
        frontend.close()
        until(lambda: rig.state == "listening")
    assert len(open_fds()) == before


def test_a_second_front_end_is_turned_away_and_the_first_one_undisturbed(rig: Rig) -> None:
    first = rig.frontend()
    run_a_ring(first)
    for _ in range(20):
        second = rig.frontend()
        assert second.wait_closed()
        second.close()
        assert first.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert 0 in rig.port.live
    first.close()


def test_a_new_front_end_is_taken_though_the_dead_one_left_messages_behind(rig: Rig) -> None:
    first = rig.frontend()
    first.tell(Request.SET_OWNER)
    first.send_raw(struct.pack("=III", Request.SET_OWNER, 1, 0) * 5000)
    first.close()
    second = rig.frontend()
    assert second.ask_u64(Request.GET_QUEUE_NUM) == 1
    second.close()


def test_a_front_end_that_closes_and_comes_back_at_once_is_always_taken(rig: Rig) -> None:
    """Its end and its return may both be waiting when the thread looks."""
    for _ in range(300):
        rig.frontend().close()
        frontend = rig.frontend()
        assert frontend.ask_u64(Request.GET_FEATURES)
        frontend.close()


def test_the_peer_is_described_from_another_thread(rig: Rig) -> None:
    assert rig.service.describe() == {
        "socket": str(rig.path),
        "mode": "server",
        "state": "listening",
        "peer_pid": None,
    }
    frontend = rig.frontend()
    run_a_ring(frontend)
    frontend.tell(Request.NET_SET_MTU, U64(9000).encode())
    about = rig.service.describe()
    assert about["peer_pid"] == os.getpid()
    assert about["features"] == ["PROTOCOL_FEATURES", "VERSION_1"]
    assert about["protocol_features"] == ["REPLY_ACK"]
    assert about["mtu"] == 9000
    assert about["regions"] == [
        {
            "guest_addr": hex(REGION.guest_addr),
            "bytes": REGION.bytes,
            "user_addr": hex(REGION.user_addr),
            "mmap_offset": "0x0",
        }
    ]
    ring, other = about["rings"]
    assert (ring["index"], ring["size"], ring["kick"], ring["call"]) == (0, 256, True, False)
    assert (ring["live"], ring["enabled"], ring["desc"]) == (True, True, hex(REGION.user_addr))
    assert (other["index"], other["live"], other["desc"]) == (1, False, None)
    frontend.close()


# Hostile peers


def test_half_a_message_delays_neither_stop_nor_kicks_nor_events(rig: Rig) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    frontend.send_raw(struct.pack("=IIII", Request.SET_FEATURES, 1, 8, 0))
    rig.port.happen("broken", 0, "a loop")
    until(lambda: rig.service.describe()["rings"][0]["broken"] == "a loop")
    started = time.monotonic()
    rig.service.stop(1.0)
    assert time.monotonic() - started < 0.5
    frontend.close()


def test_half_a_message_and_silence_frees_the_port_within_two_seconds(rig: Rig) -> None:
    silent = rig.frontend()
    silent.send_raw(struct.pack("=III", Request.SET_FEATURES, 1, 8) + b"half")
    assert silent.wait_closed(2.0)
    honest = rig.frontend()
    assert honest.ask_u64(Request.GET_QUEUE_NUM) == 1
    honest.close()
    silent.close()


def test_replies_that_are_not_read_end_the_connection(rig: Rig) -> None:
    frontend = rig.frontend()
    frontend.sock.settimeout(5)
    request = struct.pack("=III", Request.GET_FEATURES, 1, 0)
    with contextlib.suppress(Closed):
        while True:
            frontend.send_raw(request * 100)
    frontend.close()
    until(lambda: rig.state == "listening")


def test_a_storm_of_refusals_is_answered_and_logs_little(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    frontend = rig.frontend()
    frontend.send(Request.SET_PROTOCOL_FEATURES, U64(1 << 3).encode())
    with caplog.at_level(logging.INFO, "fastvhost"):
        for _ in range(100):
            frontend.send_raw(struct.pack("=IIIQ", Request.NET_SET_MTU, 1 | NEED_REPLY, 8, 1) * 10)
            for _ in range(10):
                assert frontend.receive().payload == U64(1).encode()
    assert len(caplog.records) < 60
    frontend.close()


def test_a_flood_of_connections_logs_little_and_is_survived(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    first = rig.frontend()
    first.ask_u64(Request.GET_QUEUE_NUM)
    with caplog.at_level(logging.INFO, "fastvhost"):
        for _ in range(500):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            with contextlib.suppress(BlockingIOError):  # the queue is full
                sock.connect(str(rig.path))
            sock.close()
        assert first.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert len(caplog.records) < 60
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


def test_a_port_that_always_fails_does_not_make_the_thread_spin(directory: Path) -> None:
    rig = Rig(directory / "a.sock")
    rig.port.error = RuntimeError("a port that fails")
    stop = time.monotonic() + 1.2
    before = time.process_time()
    while time.monotonic() < stop:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.1)
            sock.connect(str(rig.path))
        time.sleep(0.05)
    assert 1 <= rig.service.defects < 60
    assert time.process_time() - before < 0.8
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
        until(lambda: rig.state == "listening")
    assert "port a: disconnected: guest memory vanished; listening again" in caplog.messages
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


# The socket's file


def test_the_socket_has_the_mode_that_was_asked_for_and_goes_away(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, socket_mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)
    rig.close()
    assert not path.exists()


def test_the_socket_gets_its_group_by_name_or_number(directory: Path) -> None:
    for group in ("root" if os.getuid() == 0 else str(os.getgid()), str(os.getgid())):
        rig = Rig(directory / "a.sock", socket_group=group)
        assert (directory / "a.sock").stat().st_gid == os.getgid()
        rig.close()


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    rig = Rig(path)
    rig.frontend().close()
    rig.close()


def test_a_socket_somebody_answers_on_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path)
    port = FakePort("b")
    with pytest.raises(ServiceError, match="another process answers"):
        VhostUserService(str(path), port).open()
    port.close()
    rig.frontend().close()
    rig.close()


def test_a_socket_somebody_answers_on_with_a_full_queue_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                stack.enter_context(endpoint._connect(str(path)))
        with pytest.raises(ServiceError, match="another process answers"):
            endpoint.Listener(str(path), 0o660, None)


def test_a_file_that_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    path.write_text("precious")
    with pytest.raises(ServiceError, match="no socket"):
        endpoint.Listener(str(path), 0o660, None)
    assert path.read_text() == "precious"


def test_a_link_to_a_file_is_left_alone(directory: Path) -> None:
    (directory / "precious").write_text("precious")
    (directory / "a.sock").symlink_to(directory / "precious")
    with pytest.raises(ServiceError, match="no socket"):
        endpoint.Listener(str(directory / "a.sock"), 0o660, None)


def test_somebody_elses_socket_at_our_path_is_not_removed(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        rig.close()
        assert path.exists()


def test_a_path_is_107_bytes_at_most(directory: Path) -> None:
    room = endpoint.MAX_PATH_BYTES - len(str(directory)) - 1
    rig = Rig(directory / ("a" * room))
    rig.close()
    with pytest.raises(ServiceError, match="108 bytes") as refused:
        endpoint.Listener(str(directory / ("a" * (room + 1))), 0o660, None)
    assert refused.value.kind == "usage"


def test_bytes_count_and_not_letters(directory: Path) -> None:
    with pytest.raises(ServiceError, match="bytes"):
        endpoint.check_path(str(directory / ("é" * 60)))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(ServiceError, match="no path"):
        endpoint.check_path(path)


def test_a_missing_directory_is_named_with_the_command_that_makes_it(directory: Path) -> None:
    with pytest.raises(ServiceError, match=f"mkdir -p {directory}/none"):
        endpoint.Listener(str(directory / "none" / "a.sock"), 0o660, None)


def test_an_unknown_group_is_refused_before_anything_is_made(directory: Path) -> None:
    with pytest.raises(ServiceError, match="no group 'nosuchgroup'"):
        endpoint.Listener(str(directory / "a.sock"), 0o660, "nosuchgroup")
    assert not (directory / "a.sock").exists()


def test_what_the_system_refuses_is_no_wrong_usage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = open_fds()
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ServiceError, match="member of the group") as refused:
        endpoint.Listener(str(directory / "a.sock"), 0o660, "0")
    assert refused.value.kind == "os"
    assert not (directory / "a.sock").exists()
    assert open_fds() == before


# Client mode


def test_a_client_connects_when_its_peer_comes_later(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, mode="client")
    assert rig.state == "connecting"
    time.sleep(0.35)
    frontend = Frontend.listen(path)
    assert frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
    frontend.close()
    rig.close()
    assert path.exists()  # the peer's file is the peer's


def test_a_client_connects_again_when_its_peer_restarts(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, mode="client")
    for _ in range(3):
        frontend = Frontend.listen(path)
        run_a_ring(frontend)
        frontend.close()
        path.unlink()
        until(lambda: rig.state == "connecting")
        assert rig.port.live == {}
    rig.close()


def test_a_client_whose_peer_hangs_up_at_once_tries_less_and_less_often(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        listener.settimeout(0.1)
        rig = Rig(path, mode="client")
        accepted, stop = 0, time.monotonic() + 1.5
        while time.monotonic() < stop:
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()
                accepted += 1
        assert 2 <= accepted <= 6  # at 0, 0.1, 0.3, 0.7 s, ...
        rig.close()


def test_the_wait_between_attempts_grows_to_two_seconds_and_no_further(directory: Path) -> None:
    now = [0.0]
    dialer = endpoint.Dialer(str(directory / "none.sock"), lambda: now[0])
    waits = []
    for _ in range(12):
        assert dialer.dial() is None
        waits.append(dialer.due - now[0])
        now[0] = dialer.due
    assert 0.08 <= waits[0] <= 0.1
    assert all(1.6 <= wait <= 2.0 for wait in waits[5:])
    assert dialer.reason == "nobody listens there"


# Starting and stopping


def test_stop_without_start_removes_the_socket(directory: Path) -> None:
    before = open_fds()
    port = FakePort("a")
    service = VhostUserService(str(directory / "a.sock"), port)
    service.open()
    service.stop()
    service.stop()
    port.close()
    assert not (directory / "a.sock").exists()
    assert open_fds() == before


def test_a_front_end_that_is_early_waits_in_the_sockets_queue(directory: Path) -> None:
    port = FakePort("a")
    service = VhostUserService(str(directory / "a.sock"), port, memory=FAKE_MEMORY)
    service.open()
    frontend = Frontend.connect(directory / "a.sock")
    frontend.send(Request.GET_QUEUE_NUM)
    service.start()
    assert frontend.receive().payload == U64(1).encode()
    frontend.close()
    service.stop()
    port.close()


def test_stop_ends_the_connection_and_stops_the_rings(rig: Rig) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.service.stop()
    assert frontend.wait_closed()
    assert rig.port.live == {}
    assert not rig.path.exists()
    frontend.close()


def test_a_thread_that_hangs_in_the_system_is_reported_and_not_waited_for(directory: Path) -> None:
    rig = Rig(directory / "a.sock")
    release = threading.Event()
    rig.port.set_features = lambda _: release.wait(5)  # type: ignore[method-assign, assignment, return-value]
    frontend = rig.frontend()
    frontend.ask_u64(Request.GET_QUEUE_NUM)
    frontend.send(Request.SET_FEATURES, U64(MODERN).encode())
    time.sleep(0.05)
    with pytest.raises(TimeoutError, match="control thread of port a"):
        rig.service.stop(0.2)
    release.set()
    rig.close()
    frontend.close()


def test_out_of_file_descriptors_connections_wait_and_are_taken_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fastvhost"):
        rig = Rig(directory / "a.sock")
        accept = endpoint.Listener.accept
        attempts = []

        def refuse(listener: endpoint.Listener) -> socket.socket | None:
            attempts.append(time.monotonic())
            if len(attempts) <= 2:
                raise OSError(24, "Too many open files")
            return accept(listener)

        monkeypatch.setattr(endpoint.Listener, "accept", refuse)
        frontend = rig.frontend()
        assert frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
        assert attempts[2] - attempts[0] > 0.4  # it did not spin
        frontend.close()
        rig.close()
    assert sum("Too many open files" in text for text in caplog.messages) == 2
