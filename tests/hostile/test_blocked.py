"""A front-end can make threads of its own port wait, but no worker and no thread of another port.

The attacks use kernel objects that block a thread that uses them, for ever where fwd is wrong. With --long they last a
minute each, and 10 ms in the kernel at a time are too many.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bench.guests.waits import MAX_WAIT
from tests.frontend import Frontend, Request
from tests.hostile.arena import Arena
from tests.hostile.attacks_shared import Toggled
from tests.hostile.backend import PORTS, Backend, fastvhost
from tests.hostile.blocked import Blocked, Looks, Sleep, is_idle
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.failing import Failing, build
from tests.hostile.scene import Scene

pytestmark = pytest.mark.alone

BRIEFLY, A_MINUTE = 2.0, 60.0
LONGEST, LONGEST_ANYWHERE = 0.010, 0.25
"""Seconds: with --long, on an idle machine; and where other work, or the host, takes CPUs away."""
ASKED = 500
NAP = 0.1
Act = Callable[[Scene], object]

either_time = pytest.mark.parametrize(
    ("seconds", "most"),
    [
        pytest.param(BRIEFLY, LONGEST_ANYWHERE, id="briefly"),
        pytest.param(A_MINUTE, LONGEST, id="a_minute", marks=pytest.mark.long),
    ],
)


def own_thread(backend: Backend, port: str) -> int:
    """The control thread of this port: the one that is busy while it is asked."""
    workers = {tid for tid, name in backend.thread_states().items() if name.startswith("fv-worker")}
    frontend = Frontend.connect(backend.path(port), 20.0)
    try:
        before = backend.thread_seconds()
        for _ in range(ASKED):
            frontend.ask(Request.GET_FEATURES)
        after = backend.thread_seconds()
    finally:
        frontend.close()
    *_, second, first = sorted((after[tid] - before[tid], tid) for tid in before.keys() & after.keys() - workers)
    assert first[0] > 2 * second[0]
    return int(first[1])


def who_must_not_wait(backend: Backend) -> set[int]:
    """The workers, and the threads that wait for events. A notify thread does nothing else, and may wait."""
    found: set[int] = set()
    deadline = time.monotonic() + MAX_WAIT
    while len(found) <= len(PORTS):  # a thread for each port, a worker, and more
        assert time.monotonic() < deadline, f"only {len(found)} threads wait for anything to do"
        found |= {
            int(tid) for tid, name in backend.thread_states().items()
            if name.startswith("fv-worker") or is_idle(backend.process.pid, int(tid))
        }  # fmt: skip
    return found


@contextlib.contextmanager
def watched(arena: Arena) -> Iterator[Callable[[], Looks]]:
    """Watch workers and the threads of all ports but port a, which may wait for files of its front-end."""
    others = who_must_not_wait(arena.backend) - {own_thread(arena.backend, "a")}
    blocked = Blocked(arena.backend.process.pid, others)
    try:
        yield blocked.look
    finally:
        blocked.stop()


def repeated(arena: Arena, act: Act, seconds: float, most: float) -> None:
    """Repeat the act, each time with a new honest guest on another port and its frames."""
    rounds, start = 0, time.monotonic()
    with watched(arena) as look:
        while time.monotonic() < start + seconds:
            scene = Scene(arena)
            try:
                act(scene)
            finally:
                scene.close()
            arena.exchange("e", arena.friend)
            arena.check_alive()
            rounds += 1
        looks = look()
    print(f"{rounds} rounds, {looks}")
    assert looks.longest.seconds <= most, looks
    assert looks.number > 10 * seconds


def polling(start: Callable[..., object] = fastvhost) -> Arena:
    """An arena whose workers never sleep by themselves."""
    return Arena(start, flood=False, more=["--idle", "poll"])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    made = polling()
    yield made
    made.close()


@pytest.fixture(scope="module")
def without_aio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """An arena in which no worker has an AIO context."""
    directory = tmp_path_factory.mktemp("failing")
    failing = Failing(build(directory), directory / "board")
    with failing.failing("io_setup"):
        made = polling(failing.start)
        assert failing.failed("io_setup"), "nobody asked for a context"
        yield made
        made.close()


@either_time
def test_full_call_eventfds_that_block_now_and_then(arena: Arena, seconds: float, most: float) -> None:
    repeated(arena, notified_into_full_eventfds, seconds, most)


@either_time
def test_full_call_eventfds_that_block_now_and_then_without_aio(
    without_aio: Arena, seconds: float, most: float
) -> None:
    """The threads that notify the attacker wait, until its front-end is disconnected."""
    repeated(without_aio, notified_into_full_eventfds, seconds, most)


def notified_into_full_eventfds(scene: Scene) -> None:
    toggled = Toggled(scene)
    try:
        for _ in range(200):
            toggled.act(0)
    finally:
        toggled.stop()


@either_time
@pytest.mark.parametrize(
    "name",
    [
        "eventfds_that_become_full_and_block_while_they_are_handed_over",
        "surplus_sockets_that_linger_for_an_hour",
    ],
)
def test_kernel_objects_that_block_their_users(arena: Arena, name: str, seconds: float, most: float) -> None:
    repeated(arena, CATALOGUE[name].run, seconds, most)


# Tests of Blocked


def seen_of(work: Callable[[], object]) -> Sleep:
    """The longest sleep of a thread that does this again and again."""
    ends, known = threading.Event(), threading.Event()
    tids: list[int] = []

    def run() -> None:
        tids.append(threading.get_native_id())
        known.set()
        while not ends.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    known.wait(30)
    blocked = Blocked(os.getpid(), tids)
    try:
        time.sleep(4 * NAP)
        return blocked.look().longest
    finally:
        ends.set()
        blocked.stop()
        thread.join(30)


def test_a_thread_that_sleeps_in_the_kernel_is_seen_with_its_time() -> None:
    seen = seen_of(lambda: time.sleep(NAP))
    assert seen.seconds > 0.5 * NAP
    assert "nanosleep" in seen.where


def test_an_idle_thread_does_not_count_as_blocked() -> None:
    poller = select.poll()
    assert seen_of(lambda: poller.poll(NAP * 1000)).seconds == 0.0


def test_a_busy_thread_does_not_count_as_blocked() -> None:
    assert seen_of(lambda: sum(range(1000))).seconds < 0.5 * NAP
