"""Notifying a driver never blocks, whatever its front-end does to the descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane import notify
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.notifier import LOOK_SECONDS, MOST_RETIRED, NotificationsStuckError
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.refused_calls import NUMBERS, without
from tests.unit.rig import GuestPort, Rig, frame, rig
from tests.unit.service_rig import until
from tests.unit.session_bench import open_fds
from tests.waiters import waiters

FULL = 2**64 - 2
AIO = ["io_submit"]


def in_time(call: object, seconds: float = MAX_WAIT) -> None:
    """It returns; in a thread of its own, so that the test ends if it does not."""
    thread = threading.Thread(target=call, daemon=True)  # type: ignore[arg-type]
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for its peer's eventfd"


def fill(fd: int) -> None:
    """So that whoever writes it waits for ever."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)
    os.eventfd_write(fd, FULL)
    os.set_blocking(fd, True)


def flood(r: Rig, n: int = 1, first: int = 0) -> None:
    """So many frames from a to b, each in a burst of its own."""
    for number in range(first, first + n):
        r.a.driver.send(frame(number))
        r.worker.step()


class Control:
    """The regular task of a port's control thread, made as fast as the test wants."""

    def __init__(self, port: VirtioPort) -> None:
        self.port = port
        self.now = time.monotonic()

    def turn(self) -> float | None:
        self.now = max(time.monotonic(), self.now) + LOOK_SECONDS
        return self.port.tend(self.now)


@pytest.fixture
def r() -> Iterator[Rig]:
    """Two guests, b with receive buffers. Whatever happens to b's helper, nothing of it is left at the end."""
    before, threads = open_fds(), threading.active_count()
    with rig() as made:
        made.b.driver.post(200)
        yield made
        made.b.port.set_link(False)
        control = Control(made.b.port)
        until(lambda: not control.turn() and threading.active_count() <= threads)
    assert open_fds() == before


@pytest.mark.parametrize("index", [0, 1])
def test_a_call_fd_made_blocking_again_and_full_does_not_hold_the_worker(r: Rig, index: int) -> None:
    side = r.b if index == 0 else r.a
    fill(side.call[index])
    in_time(lambda: flood(r, 200))
    assert len(r.b.driver.receive_all()) == 200
    os.set_blocking(side.call[index], False)
    assert side.calls(index) in (FULL, FULL + 1)  # the kernel's own ceiling, and nothing lost of it


def test_many_notifications_are_all_counted_and_no_thread_helps() -> None:
    """More notifications than AIO completions are kept."""
    with rig() as r:
        r.b.driver.post(250)
        for n in range(1000):
            r.a.driver.send(frame(n))
            r.worker.step()
            assert r.b.driver.receive(0) == frame(n)
        assert r.b.calls(0) == 1000
        assert r.b.port.helper == (False, 0)


# Without AIO


def test_without_aio_a_thread_of_the_port_notifies(r: Rig) -> None:
    without(AIO, lambda: flood(r, 100))
    assert r.b.calls(0) == 0  # not by the worker
    assert os.eventfd_read(r.b.port.attention_fd) == 1  # which woke control once
    Control(r.b.port).turn()
    until(lambda: r.b.calls(0))
    assert r.b.port.helper == (True, 0)
    without(AIO, lambda: flood(r, 1, 100))
    until(lambda: r.b.calls(0))  # and woke the helper by itself
    with pytest.raises(BlockingIOError):
        os.eventfd_read(r.b.port.attention_fd)


@pytest.mark.parametrize("index", [0, 1])
def test_without_aio_a_full_call_fd_does_not_hold_the_worker_either(r: Rig, index: int) -> None:
    """Its front-end makes it blocking again each time."""
    side = r.b if index == 0 else r.a
    fill(side.call[index])
    without(AIO, lambda: flood(r, 50))
    side.port.tend(time.monotonic())
    without(AIO, lambda: flood(r, 50, 50))
    assert len(r.b.driver.receive_all()) == 100
    side.port.set_link(False)
    until(lambda: side.port.tend(time.monotonic()) is None)


def test_a_helper_that_is_stuck_is_left_behind_and_another_one_serves_the_other_rings(r: Rig) -> None:
    side, control = r.a, Control(r.a.port)
    r.a.driver.post(100)
    fill(side.call[1])
    without(AIO, lambda: flood(r))  # a's transmitq
    until(lambda: (control.turn(), side.port.helper)[1][1] == 1)

    def answer() -> None:
        r.b.driver.send(frame(7))
        r.worker.step()

    without(AIO, answer)  # a's receiveq
    control.turn()
    until(lambda: side.calls(0))
    assert side.port.helper == (True, 1)
    side.port.set_link(False)
    until(lambda: control.turn() is None)
    assert side.port.helper == (False, 0)


def writing(name: str) -> bool:
    """Whether a thread of that name waits in write(2)."""
    tids = [thread.native_id for thread in threading.enumerate() if thread.name == name]
    calls = {Path(f"/proc/self/task/{tid}/syscall").read_text().split()[0] for tid in tids}
    return str(NUMBERS[platform.machine()]["write"]) in calls


def stuck(r: Rig, control: Control) -> str:
    """Notify b until its port gives up. Returns why."""
    fill(r.b.call[0])
    for n in range(MOST_RETIRED + 1):
        without(AIO, lambda n=n: flood(r, 1, n))  # type: ignore[misc]
        try:
            until(lambda n=n: (control.turn(), r.b.port.helper)[1][1] > n)  # type: ignore[misc]
        except NotificationsStuckError as error:
            return str(error)
    raise AssertionError(f"never: {r.b.port.helper}")


def test_with_four_helpers_stuck_the_front_end_is_refused_and_the_next_one_served(r: Rig) -> None:
    control = Control(r.b.port)
    sentence = stuck(r, control)
    assert "4 threads that notify wait in write(2)" in sentence
    assert "O_NONBLOCK" in sentence
    assert r.b.port.helper == (False, MOST_RETIRED)
    # The front-end goes, and nobody else reads the eventfd.
    r.b.port.set_link(False)
    r.b.port.stop_queue(0)
    until(lambda: control.turn() is None)
    assert r.b.port.helper == (False, 0)
    os.set_blocking(r.b.call[0], False)
    r.b.calls(0)
    r.b.port.set_link(True)
    r.b.start(0)
    without(AIO, lambda: flood(r, 1, 90))
    control.turn()
    until(lambda: r.b.calls(0))


def test_a_ring_that_stops_takes_back_what_was_asked_for_it(r: Rig) -> None:
    without(AIO, lambda: flood(r))
    r.b.port.stop_queue(0)
    assert r.b.port.tend(time.monotonic()) is None
    assert r.b.port.helper == (False, 0)
    assert r.b.calls(0) == 0


def test_another_call_fd_is_the_helpers_from_then_on(r: Rig) -> None:
    without(AIO, lambda: flood(r))
    Control(r.b.port).turn()
    until(lambda: r.b.calls(0))
    other = os.eventfd(0, os.EFD_NONBLOCK)
    r.b.port.set_call_fd(0, other)
    before = open_fds()
    without(AIO, lambda: flood(r, 1, 1))
    until(lambda: other_was_written(other))
    assert r.b.calls(0) == 0
    assert open_fds() == before
    r.b.port.set_call_fd(0, -1)
    os.close(other)


def other_was_written(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_a_descriptor_that_the_helper_is_stuck_in_outlives_its_replacement(r: Rig) -> None:
    """To close it would give its number to another file, which the helper would write next."""
    fill(r.b.call[0])
    without(AIO, lambda: flood(r))
    r.b.port.tend(time.monotonic())
    until(lambda: writing("notify b"))
    fresh = os.eventfd(0, os.EFD_NONBLOCK)
    before = len(open_fds())
    r.b.port.set_call_fd(0, fresh)
    assert len(open_fds()) == before + 1  # a duplicate of the new one, and the old one still there
    os.eventfd_read(r.b.call[0])
    until(lambda: (r.b.port.tend(time.monotonic()), len(open_fds()))[1] == before)
    without(AIO, lambda: flood(r, 1, 1))
    until(lambda: other_was_written(fresh))
    r.b.port.set_call_fd(0, -1)
    os.close(fresh)


def test_a_helper_that_cannot_be_started_costs_the_front_end_its_place(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    without(AIO, lambda: flood(r))
    before = open_fds()

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        with pytest.raises(NotificationsStuckError, match="can't start new thread; raise"):
            r.b.port.tend(time.monotonic())
    assert open_fds() == before
    r.b.port.tend(time.monotonic())  # it can now
    until(lambda: r.b.calls(0))


def test_a_worker_that_gets_no_context_says_why_and_what_helps() -> None:
    worker = Worker(Door())
    sentence = without(["io_setup"], worker.prepare)
    assert "raise it with sysctl fs.aio-max-nr=" in sentence
    assert "seccomp" in notify.why_not(errno.EPERM)
    assert worker.prepare() == ""
    worker.close()


# Slow eventfds


def seconds_each(r: Rig, n: int, first: int = 0) -> list[float]:
    took = []
    for number in range(first, first + n):
        before = time.perf_counter()
        flood(r, 1, number)
        took.append(time.perf_counter() - before)
        r.b.port.tend(time.monotonic())
    return took


def test_a_queue_that_takes_long_to_signal_is_the_helpers_from_then_on(r: Rig) -> None:
    with waiters(r.b.call[0]):
        slow = seconds_each(r, 64 + 16)
        assert [what for what, _, _ in r.b.port.events()] == ["slow_calls"]
        r.b.calls(0)
        took = seconds_each(r, 50, 80)
        assert r.b.port.helper == (True, 0)
        assert statistics.median(took) < max(0.0002, max(slow[:8]) / 4)
        until(lambda: r.b.calls(0))


def test_a_front_end_that_comes_back_at_once_is_notified_as_before(r: Rig) -> None:
    """Otherwise its first notifications would slow the worker down again each time."""
    with waiters(r.b.call[0]):
        flood(r, 8)
    r.b.port.set_link(False)
    base = r.b.port.stop_queue(0)
    r.b.port.set_link(True)
    r.b.start(0, base=base)
    r.b.calls(0)
    flood(r, 1, 8)
    assert r.b.calls(0) == 0
    r.b.port.tend(time.monotonic())
    until(lambda: r.b.calls(0))


def test_waiters_that_are_there_from_the_beginning_are_noticed_within_eight_notifications(r: Rig) -> None:
    with waiters(r.b.call[0]):
        flood(r, 8)
        assert "slow_calls" in [what for what, _, _ in r.b.port.events()]


def test_a_slow_notification_now_and_then_makes_nothing_slow(r: Rig) -> None:
    """As if the worker lost its core meanwhile."""
    for n in range(3):
        with waiters(r.b.call[0]):
            flood(r, 1, 20 * n)
        flood(r, 19, 20 * n + 1)
    assert "slow_calls" not in [what for what, _, _ in r.b.port.events()]


def test_a_kick_fd_that_takes_long_to_read_is_left_alone(r: Rig) -> None:
    """The worker looks at the ring instead, every nap, and reads it four times a second until that is quick again."""
    kick = r.a.kick[1]
    with rig(idle="interrupt") as other:
        other.a.port.set_kick_fd(1, kick)
        thread = threading.Thread(target=other.worker.run)
        thread.start()
        try:
            with waiters(kick):
                other.b.driver.post(100)
                for n in range(20):
                    os.eventfd_write(kick, 1)
                    other.a.driver.send(frame(n))
                    assert other.b.driver.receive() == frame(n)
                    time.sleep(0.002)
                start, read = time.monotonic(), 0
                for _ in range(6):
                    os.eventfd_write(kick, 1000)
                    time.sleep(0.03)
                    read += not taken(kick)
                assert read <= 1 + 4 * (time.monotonic() - start)
            wait_until("the kicks are read again", 30, lambda: read_at_once(kick))
        finally:
            other.worker.stop()
            thread.join()
        other.a.port.set_kick_fd(1, other.a.kick[1])


def read_at_once(kick: int) -> bool:
    """Whether the worker, that may sleep for 20 ms, takes five kicks in a row within 100 ms each."""
    for _ in range(5):
        os.eventfd_write(kick, 1)
        time.sleep(0.1)
        if taken(kick):
            return False
    return True


def taken(kick: int) -> int:
    """The count that is left in it."""
    try:
        return os.eventfd_read(kick)
    except BlockingIOError:
        return 0


# Sockets


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_gets_eight_bytes_for_each_notification(r: Rig, kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        r.b.port.set_call_fd(0, ours.fileno())
        flood(r, 3)
        assert [theirs.recv(8) for _ in range(3)] == [(1).to_bytes(8, "little")] * 3
        r.b.port.set_call_fd(0, -1)


@pytest.mark.parametrize("gone", [False, True])
def test_a_socket_without_room_or_peer_holds_nothing(r: Rig, gone: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(8), socket.MSG_DONTWAIT)
        if gone:
            theirs.close()
        r.b.port.set_call_fd(0, ours.fileno())
        in_time(lambda: flood(r, 100))
        r.b.port.call(0)
        assert len(r.b.driver.receive_all()) == 100
        assert r.b.port.helper == (False, 0)
        r.b.port.set_call_fd(0, -1)


# Signals of control threads


def side_with_err(r: Rig) -> tuple[GuestPort, int]:
    err = os.eventfd(0)
    fill(err)
    fill(r.b.call[0])
    return r.b, err


def tell(side: GuestPort, err: int) -> None:
    side.port.call(0)
    side.port.signal_err(0, err)


def test_control_never_waits_for_a_full_descriptor(r: Rig) -> None:
    side, err = side_with_err(r)
    in_time(lambda: tell(side, err))
    assert side.port.helper == (False, 0)
    os.close(err)


def test_control_never_waits_where_there_is_no_aio_either(r: Rig) -> None:
    side, err = side_with_err(r)
    without(AIO, lambda: tell(side, err))
    assert side.port.helper == (True, 0)
    os.close(err)


def test_the_helper_writes_what_control_asks_for(r: Rig) -> None:
    err = os.eventfd(0, os.EFD_NONBLOCK)
    without(AIO, lambda: tell(r.b, err))
    until(lambda: other_was_written(err))
    until(lambda: r.b.calls(0))
    os.close(err)
