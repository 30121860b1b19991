"""A tap without traffic: how often a worker reads it, each read being a system call."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import NullPort
from fastvhost.dataplane.ports.tap import TapPort
from fastvhost.dataplane.worker import Worker
from tests.driver import NET_HEADER
from tests.probes.contract import Caller
from tests.probes.shares import BusyPort, rounds, start_rounds
from tests.unit.rig import frame

MOST_PAUSE_NS = 50_000
READS_TO_COUNT = 10
"""More than reads() makes itself."""


class QuietTap:
    """A tap port; send() is what the host's stack would do."""

    def __init__(self, door: Door) -> None:
        self.peer, self.own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.own.setblocking(False)
        self.port = TapPort("t", door)
        self.port.attach([self.own.fileno()])
        self.port.set_link(True)

    def send(self, data: bytes) -> None:
        self.peer.send(NET_HEADER.pack(*(0,) * 7) + data)

    def close(self) -> None:
        self.port.close()
        self.peer.close()
        self.own.close()


@pytest.fixture
def tap() -> Iterator[QuietTap]:
    made = QuietTap(Door())
    yield made
    made.close()


def be_quiet(caller: Caller) -> None:
    """For so long that looks are as rare as they become."""
    caller.may_receive()
    time.sleep(8 * MOST_PAUSE_NS / 1e9)
    caller.may_receive()


def test_a_tap_that_was_quiet_for_long_is_looked_at_once_in_50_us(tap: QuietTap) -> None:
    caller = Caller(tap.port)
    be_quiet(caller)
    begin = time.monotonic_ns()
    looks = sum(caller.may_receive() for _ in range(1000))
    assert looks <= 1 + (time.monotonic_ns() - begin) // MOST_PAUSE_NS


def test_a_frame_after_a_quiet_time_is_found_and_the_next_one_without_delay(tap: QuietTap) -> None:
    caller = Caller(tap.port)
    be_quiet(caller)
    tap.send(frame(1))
    wait_until("a look", MAX_WAIT, caller.may_receive)
    assert caller.receive() == 1
    caller.release(0, 1)
    assert caller.may_receive()


def test_a_worker_that_slept_looks_at_once_at_a_quiet_tap(tap: QuietTap) -> None:
    caller = Caller(tap.port)
    be_quiet(caller)
    for _ in range(100):
        caller.want_kicks(True)
        caller.want_kicks(False)
        assert caller.may_receive()


def test_a_tap_that_is_not_attached_is_not_looked_at() -> None:
    port = TapPort("t", Door())
    assert not Caller(port).may_receive()
    port.close()


def reads() -> int:
    """Calls of read(2) that this thread has made. proc(5), io."""
    return int(Path("/proc/thread-self/io").read_text().partition("syscr:")[2].split()[0])


def test_quiet_taps_beside_a_port_with_traffic_are_read_by_time_and_not_by_round() -> None:
    with ExitStack() as closing:
        door = Door()
        taps = [QuietTap(door) for _ in range(3)]
        worker = Worker(door)
        for tap in taps:
            closing.callback(tap.close)
            worker.add_wire(tap.port, NullPort("taken"), hold=True, hold_timeout_ms=1000)
        closing.callback(worker.close)
        worker.add_wire(BusyPort("busy"), NullPort("taken"), hold=True, hold_timeout_ms=1000)
        start_rounds(worker)
        rounds(worker, 1000)  # until the taps' lanes count as quiet
        time.sleep(8 * MOST_PAUSE_NS / 1e9)
        rounds(worker, 3)
        before, begin = reads(), time.monotonic_ns()
        assert rounds(worker, 10_000) == 10_000 * 64
        most = len(taps) * (1 + (time.monotonic_ns() - begin) // MOST_PAUSE_NS)
        assert reads() - before <= most + READS_TO_COUNT
