"""Front-ends that make notifications block or slow: workers and other ports are not affected, and nothing stays."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bench.guests.cores import FWD_CORE
from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.process import Process
from bench.guests.waits import MAX_WAIT, wait_until
from tests.driver import Timeout
from tests.frontend import U64, Closed, Guest, Refused, Request, wait_eventfd
from tests.waiters import waiters

pytestmark = pytest.mark.alone

WITHOUT_AIO = [sys.executable, "-m", "tests.refused_calls", "io_setup", "--"]
FULL = 2**64 - 2
FRAME = bytes(range(60))
NEVER_FOR_LONG = "import fcntl, sys\nfds = [int(fd) for fd in sys.argv[1:]]\nwhile True:\n" + "".join(
    f"    for fd in fds: fcntl.fcntl(fd, fcntl.F_SETFL, {flags})\n" for flags in (os.O_RDWR | os.O_NONBLOCK, os.O_RDWR)
)


class Place:
    """A fwd with an attacked pair of ports, a and b, and an honest pair of guests at c and d."""

    def __init__(self, fwd: Fwd, directory: Path) -> None:
        self.fwd = fwd
        self.path = {name: directory / f"{name}.sock" for name in "abcd"}
        self.left = Guest.boot(self.path["c"], receive_buffers=64, name="left")
        self.right = Guest.boot(self.path["d"], receive_buffers=64, name="right")
        self.numbers = itertools.count()
        self.exchange()
        self.before = self.held()

    def held(self) -> tuple[int, int]:
        """Descriptors and threads of fwd."""
        return tuple(sum(1 for _ in Path(f"/proc/{self.fwd.pid}/{what}").iterdir()) for what in ("fd", "task"))  # type: ignore[return-value]

    def exchange(self) -> None:
        """A frame each way between the honest ones, at once."""
        for sender, receiver in ((self.left, self.right), (self.right, self.left)):
            frame = FRAME + next(self.numbers).to_bytes(4, "little")
            sender.net.send(frame, kick=sender.kicks[1])
            assert receiver.net.receive() == frame

    def wait_released(self) -> None:
        wait_until("descriptors and threads are back", MAX_WAIT, lambda: self.held() == self.before)

    def close(self) -> None:
        self.left.close()
        self.right.close()


@contextlib.contextmanager
def attacked(directory: Path, prefix: Sequence[str] = ()) -> Iterator[Place]:
    with Fwd(directory, [str(directory / f"{name}.sock") for name in "abcd"], IN_PAIRS, prefix) as fwd:
        place = Place(fwd, directory)
        try:
            yield place
            place.wait_released()
        finally:
            place.close()


def while_honest(place: Place, act: Callable[[], object], until: Callable[[], object], seconds: float) -> None:
    """Act again and again, with an honest exchange after each time."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        act()
        place.exchange()


def fill(fd: int) -> None:
    """Fill it, so that a write blocks for ever."""
    while True:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        with contextlib.suppress(BlockingIOError):  # written meanwhile
            os.eventfd_write(fd, FULL)
            return


def test_without_aio_a_call_descriptor_that_blocks_now_and_then_costs_its_own_connection_only(place: Path) -> None:
    with attacked(place, WITHOUT_AIO) as fwd:
        assert fwd.fwd.log().count("sysctl fs.aio-max-nr=") == 1
        peer = Guest.boot(fwd.path["b"], receive_buffers=64, name="peer")
        attacker = Guest.boot(fwd.path["a"], receive_buffers=64, name="attacker")
        fds = attacker.calls
        for fd in fds:
            fill(fd)
        arguments = [sys.executable, "-c", NEVER_FOR_LONG, *map(str, fds)]
        toggler = Process("toggler", arguments, place, pass_fds=fds)

        def send() -> None:
            attacker.net.send(FRAME, kick=attacker.kicks[1])
            with contextlib.suppress(Timeout):  # just disconnected
                peer.net.receive(0.5)

        refused = r"port a: disconnected: its call or err descriptors block: 4 threads .*"
        try:
            while_honest(fwd, send, lambda: "port a: disconnected" in fwd.fwd.log(), 2 * MAX_WAIT)
            fwd.fwd.wait_log(refused)
        finally:
            toggler.popen.kill()
            toggler.popen.wait()
        attacker.close()
        with Guest.boot(fwd.path["a"], receive_buffers=64, name="fresh") as fresh:
            fresh.net.send(FRAME, kick=fresh.kicks[1])
            assert peer.net.receive() == FRAME
            peer.net.send(FRAME, kick=peer.kicks[1])
            assert fresh.net.receive() == FRAME
            assert wait_eventfd(fresh.calls[0])
        peer.close()


def test_a_call_descriptor_that_fills_up_as_it_is_handed_over_holds_no_control_thread(place: Path) -> None:
    allowed = os.sched_getaffinity(0)
    with attacked(place) as fwd:
        chance = random.Random(10)
        attacker = Guest.boot(fwd.path["a"], name="attacker")
        os.sched_setaffinity(0, {FWD_CORE})  # the worker's, which sleeps
        try:
            for _ in range(400):
                call = os.eventfd(0, os.EFD_NONBLOCK)
                attacker.frontend.send(Request.SET_VRING_CALL, U64.pack(1), [call])
                end = time.perf_counter() + chance.uniform(0, 0.0005)
                while time.perf_counter() < end:
                    pass
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(call, FULL)
                    os.set_blocking(call, True)
                attacker.frontend.ask_u64(Request.GET_FEATURES)
                os.close(call)
        finally:
            os.sched_setaffinity(0, allowed)
        fwd.exchange()
        attacker.close()


def test_a_call_descriptor_with_many_waiters_is_written_by_a_thread_of_its_own_port(place: Path) -> None:
    with attacked(place) as fwd:
        peer = Guest.boot(fwd.path["b"], receive_buffers=64, name="peer")
        attacker = Guest.boot(fwd.path["a"], name="attacker")

        def send() -> None:
            attacker.net.send(FRAME, kick=attacker.kicks[1])
            peer.net.receive()

        with waiters(attacker.calls[1]):
            while_honest(fwd, send, lambda: "port a: its call descriptors take" in fwd.fwd.log(), 2 * MAX_WAIT)
            os.eventfd_read(attacker.calls[1])
            send()
            assert wait_eventfd(attacker.calls[1])
            fwd.exchange()
        attacker.close()
        peer.close()


def test_a_socket_is_told_of_used_buffers_and_a_pipe_refused(place: Path) -> None:
    with attacked(place) as fwd:
        ours, theirs = socket.socketpair()
        ours.settimeout(MAX_WAIT)
        with Guest.boot(fwd.path["a"], name="a") as a, Guest.boot(fwd.path["b"], receive_buffers=8, name="b") as b:
            a.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [theirs.fileno()])
            assert ours.recv(8) == (1).to_bytes(8, "little")  # a new call descriptor is signalled once
            a.net.send(FRAME, kick=a.kicks[1])
            assert b.net.receive() == FRAME
            assert ours.recv(8) == (1).to_bytes(8, "little")
            pipe = os.pipe()
            with contextlib.suppress(Closed):
                try:
                    a.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [pipe[1]])
                    raise AssertionError("a pipe was taken")
                except Refused:
                    pass
            for fd in pipe:
                os.close(fd)
        for end in (ours, theirs):
            end.close()
