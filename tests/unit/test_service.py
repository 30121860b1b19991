"""The control thread of a port: a front-end's life, one at a time, and how the thread starts and stops."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend import control_thread, foreign_files
from fastvhost.backend.payload import U64, VringState
from fastvhost.vhostuser import listener
from fastvhost.vhostuser.message import Request, VringFd
from fastvhost.vhostuser.service import LEAVERS_WAIT, VhostUserService
from tests.frontend import F_RING_RESET, Closed, Frontend, readable
from tests.unit.fake_port import FAKE_MEMORY, FakePort
from tests.unit.service_rig import Rig, count_turns, run_a_ring, until
from tests.unit.session_bench import MODERN, REGION, open_fds

A_MOMENT = 0.3
"""Seconds in which nothing may come."""

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


def test_news_of_a_worker_reads_nothing_of_the_socket(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # A read would cost a call, and end the connection of a guest that sent nothing where the kernel has no memory.
    frontend = rig.frontend()
    run_a_ring(frontend)
    until(lambda: rig.port.of("kick_queue") == [(0,)])
    turns = count_turns(rig, monkeypatch)
    monkeypatch.setattr(foreign_files, "receive", no_memory)
    os.eventfd_write(rig.port.attention_fd, 1)
    until(lambda: turns)
    assert not frontend.wait_closed(A_MOMENT)
    assert rig.state == "rings"
    frontend.close()


def no_memory(*_: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_a_closed_connection_is_seen_without_waiting(rig: Rig) -> None:
    # The honest guests of the hostile tests look so.
    frontend = rig.frontend()
    assert not frontend.wait_closed(0.0)
    rig.service.stop(MAX_WAIT)
    until(lambda: frontend.wait_closed(0.0))
    frontend.close()


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


def test_front_ends_that_leave_when_they_know_the_number_of_pairs_are_told_of_queues(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """QEMU with queues=2 reconnects many times a second, and says why only on its own stderr."""

    def said() -> int:
        remedy = "1 queue pair here; one that wants more (QEMU's queues=) needs queues= at this port"
        return sum(remedy in line for line in caplog.messages)

    for times in range(5):
        assert said() == (times >= 3)
        frontend = rig.frontend()
        frontend.ask_u64(Request.GET_FEATURES)
        frontend.tell(Request.SET_OWNER)
        frontend.ask_u64(Request.GET_FEATURES)
        frontend.close()
        until(lambda times=times: rig.state == "listening" and said() == (times >= 2))
    assert said() == 1


def test_front_ends_that_leave_like_that_are_taken_twice_a_second(rig: Rig) -> None:
    """QEMU reconnects as fast as it can. After a front-end that shares memory the limit is lifted."""
    taken: list[float] = []
    while len(taken) < 5:
        frontend = rig.frontend()
        try:
            frontend.ask_u64(Request.GET_FEATURES)
        except Closed:  # it came while the one before was being seen off
            frontend.close()
            continue
        taken.append(time.monotonic())
        frontend.tell(Request.SET_OWNER)
        frontend.ask_u64(Request.GET_FEATURES)
        frontend.close()
    assert all(later - before >= LEAVERS_WAIT for before, later in itertools.pairwise(taken[2:]))
    until(lambda: rig.state == "listening")
    good = rig.frontend()
    run_a_ring(good)
    good.close()
    until(lambda: rig.state == "listening")
    assert rig.service._paused_until <= time.monotonic()


def test_a_front_end_that_only_looks_is_not_told_of_queues(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        frontend = rig.frontend()
        frontend.ask_u64(Request.GET_FEATURES)
        frontend.close()
    until(lambda: rig.state == "listening")
    assert not any("queue pair" in line for line in caplog.messages)


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


def test_a_front_end_that_needs_a_withdrawn_bit_leaves_at_once_comes_again_and_has_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """As QEMU does, whose guest acknowledged it under a fwd of before."""
    caplog.set_level(logging.INFO, "fastvhost")
    before = rig.frontend()
    assert not before.ask_u64(Request.GET_FEATURES) & F_RING_RESET
    before.close()
    again = rig.frontend()
    assert again.ask_u64(Request.GET_FEATURES) & F_RING_RESET
    again.close()
    again = rig.frontend()
    assert again.ask_u64(Request.GET_FEATURES) & F_RING_RESET
    assert caplog.text.count("offered RING_RESET as well") == 1
    run_a_ring(again)
    again.close()
    other = rig.frontend()
    assert not other.ask_u64(Request.GET_FEATURES) & F_RING_RESET
    other.close()


def test_a_guest_that_has_such_a_bit_is_named_in_the_log_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastvhost")
    before = rig.frontend()
    before.ask_u64(Request.GET_FEATURES)
    before.close()
    again = rig.frontend()
    assert again.ask_u64(Request.GET_FEATURES) & F_RING_RESET
    again.send(Request.SET_PROTOCOL_FEATURES, U64(1 << 3).encode())
    again.reply_ack = True
    for _ in range(2):
        again.tell(Request.SET_FEATURES, U64(MODERN | F_RING_RESET).encode())
    again.close()
    other = rig.frontend()
    other.send(Request.SET_PROTOCOL_FEATURES, U64(1 << 3).encode())
    other.reply_ack = True
    other.tell(Request.SET_FEATURES, U64(MODERN).encode())
    other.close()
    assert caplog.text.count("the guest has RING_RESET from an earlier fwd") == 1
    assert caplog.text.count("ethtool -G") == 1


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
    assert about["notified_by"] == "workers"
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


@pytest.mark.parametrize(
    ("helper", "words"),
    [
        ((True, 0), "a thread of this port"),
        ((True, 2), "a thread of this port; 2 more threads held in write(2) by its front-end"),
        ((False, 4), "workers; 4 more threads held in write(2) by its front-end"),
    ],
)
def test_who_notifies_the_driver_is_described(rig: Rig, helper: tuple[bool, int], words: str) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.port.helper = helper
    assert rig.service.describe()["notified_by"] == words
    frontend.close()


# A worker that does not come to the door


def test_a_front_end_that_ends_while_a_worker_is_stuck_leaves_a_port_that_serves_again_once_that_is_back(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_thread, "TELL_AFTER", 0.05)
    caplog.set_level(logging.INFO, "fastvhost")
    first = rig.frontend()
    run_a_ring(first)
    until(lambda: rig.state == "rings")
    rig.port.worker_stuck = True
    first.close()
    until(lambda: "worker7 does not come to the door; this port waits for it" in caplog.text)
    # The next one waits: what it set up would meet rings that a worker still sees.
    second = rig.frontend()
    second.send(Request.GET_FEATURES)
    assert not readable(second.sock.fileno(), A_MOMENT)
    assert caplog.text.count("does not come") == 1
    rig.port.worker_stuck = False
    until(lambda: "the worker is back, this port goes on" in caplog.text)
    assert rig.port.live == {}
    assert second.receive().request == Request.GET_FEATURES
    run_a_ring(second)
    until(lambda: rig.state == "rings")
    second.close()
    until(lambda: rig.state == "listening")


def test_a_message_waits_for_a_worker_and_is_answered_once_that_is_back(rig: Rig) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.port.worker_stuck = True
    frontend.send(Request.SET_VRING_ENABLE, VringState(0, 0).encode(), need_reply=True)
    frontend.send(Request.GET_QUEUE_NUM)
    assert not readable(frontend.sock.fileno(), A_MOMENT)
    rig.port.worker_stuck = False
    assert [frontend.receive().request for _ in range(2)] == [Request.SET_VRING_ENABLE, Request.GET_QUEUE_NUM]
    assert frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert rig.service.defects == 0
    frontend.close()


def test_a_front_end_that_ends_with_a_message_that_waits_for_a_worker_loses_no_file_descriptor(rig: Rig) -> None:
    before = len(open_fds())
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.port.worker_stuck = True
    kick = os.eventfd(0)
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL):
        frontend.send(request, VringFd(0, False).encode(), [kick])
    os.close(kick)
    frontend.close()
    until(lambda: rig.state == "listening")
    rig.port.worker_stuck = False
    until(lambda: len(open_fds()) == before)
    assert rig.service.defects == 0


def test_stop_is_heard_while_a_message_waits_for_a_worker(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(directory / "a.sock")
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.port.worker_stuck = True
    frontend.send(Request.SET_VRING_ENABLE, VringState(0, 0).encode())
    until(lambda: not rig.service._changes.settled)
    rig.service.stop(MAX_WAIT)
    assert frontend.wait_closed()
    assert not rig.path.exists()
    assert caplog.text.count("did not stop cleanly: WorkerStuckError: worker7 does not come to the door") == 1
    rig.port.worker_stuck = False
    rig.close()
    frontend.close()


def test_files_that_a_stop_left_to_a_worker_are_closed_by_another_stop(directory: Path) -> None:
    before = len(open_fds())
    rig = Rig(directory / "a.sock")
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.port.worker_stuck = True
    rig.service.stop(MAX_WAIT)
    frontend.close()
    assert rig.service.unsettled
    rig.port.worker_stuck = False
    rig.service.stop(0)
    assert not rig.service.unsettled
    rig.close()
    assert len(open_fds()) == before


# Starting and stopping


def test_stop_without_start_removes_the_socket(directory: Path) -> None:
    before = open_fds()
    port = FakePort("a")
    service = VhostUserService(str(directory / "a.sock"), port)
    service.open()
    service.stop(MAX_WAIT)
    service.stop(MAX_WAIT)
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
    service.stop(MAX_WAIT)
    port.close()


def test_stop_ends_the_connection_and_stops_the_rings(rig: Rig) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.service.stop(MAX_WAIT)
    assert frontend.wait_closed()
    assert rig.port.live == {}
    assert not rig.path.exists()
    frontend.close()


def test_a_thread_that_hangs_in_the_system_is_reported_and_not_waited_for(directory: Path) -> None:
    rig = Rig(directory / "a.sock")
    hangs, release = threading.Event(), threading.Event()

    def hang(_features: int) -> None:
        hangs.set()
        release.wait(2 * MAX_WAIT)

    rig.port.set_features = hang  # type: ignore[method-assign]
    frontend = rig.frontend()
    frontend.ask_u64(Request.GET_QUEUE_NUM)
    frontend.send(Request.SET_FEATURES, U64(MODERN).encode())
    assert hangs.wait(MAX_WAIT)
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
        accept = listener.Listener.accept
        attempts = []

        def refuse(listener: listener.Listener) -> socket.socket | None:
            attempts.append(time.monotonic())
            if len(attempts) <= 2:
                raise OSError(24, "Too many open files")
            return accept(listener)

        monkeypatch.setattr(listener.Listener, "accept", refuse)
        frontend = rig.frontend()
        assert frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
        assert attempts[2] - attempts[0] > 0.4  # it did not spin
        frontend.close()
        rig.close()
    assert sum("Too many open files" in text for text in caplog.messages) == 2
