"""A guest's front-end punches holes into the memory it shares, again and again.

A page fault in a range that is being punched waits uninterruptibly until all of it is done: half a second for 4 GiB. A
front-end that makes the worker wait like that is disconnected, and refused for longer each time.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.conftest import endurance
from tests.driver import Memory, Region, SplitQueue
from tests.frontend import FEATURES, Closed, Frontend, Guest, Refused, Request
from tests.hostile.accomplice import Accomplice
from tests.hostile.arena import Arena
from tests.hostile.backend import fastvhost
from tests.hostile.flood import LEAST_SHARE
from tests.hostile.invariant import Broken
from tests.own_time import stolen_seconds

HOLES = 512 << 20
HELD_FOR_SO_LONG = 30.0
"""Seconds after which a port that makes the worker wait must be found and disconnected."""
SECONDS, A_MINUTE = 4.0, 60.0
BACK_OFF = 70.0
"""Seconds: a front-end is refused for a minute at most."""
TRIES = 0.3
"""Seconds for a connection to be served, and between two attempts."""


class Punched:
    """A guest in whose memory holes are punched; it connects again when it is disconnected for that."""

    def __init__(self, arena: Arena) -> None:
        self._path = arena.backend.path("a")
        self._own = Region(0x10000, 1 << 20, file_bytes=HOLES, name="attacker")
        self._puncher = Accomplice("punches_holes", [self._own.fd], 0, HOLES)
        self._guest: Guest | None = None

    def act(self, *, aimed: bool) -> None:
        self._puncher.aim(aimed)
        try:
            self._guest = self._guest or self._come()
            self._guest.frontend.ask(Request.GET_FEATURES)
        except (Closed, Refused, OSError):
            self._go()
        time.sleep(0.005)

    def _come(self) -> Guest:
        """Connect. Its rings stay empty: punched memory reads as zeros, where its indices begin."""
        frontend = Frontend.connect(self._path, TRIES)
        memory = Memory([Region(0x10000, 1 << 20, fd=self._own.fd)])
        queues = [SplitQueue(memory, 256, start=0) for _ in range(2)]
        return Guest(frontend, memory, *queues, features=FEATURES, polled=True)

    def _go(self) -> None:
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    @property
    def is_connected(self) -> bool:
        return self._guest is not None

    def stop(self) -> None:
        self._go()
        self._puncher.stop()
        self._own.close()


pytestmark = pytest.mark.alone


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An arena whose worker never sleeps by itself: time in which it neither runs nor waits for a CPU is held time."""
    made = Arena(fastvhost, flood=False, more=["--idle", "poll"])
    yield made
    made.close()


def kept(arena: Arena, punched: Punched, seconds: float) -> float:
    """The part of the time in which the worker is not held, with an attacker that connects again and again.

    Each punch takes as long as it takes this machine. Where it is too small, it is looked at over a minute: a port that
    is not kept away for longer and longer holds the worker as much then.
    """
    worker = next(task for task, name in arena.backend.thread_states().items() if name.startswith("fv-worker"))
    start, busy, stolen = time.monotonic(), arena.backend.busy_seconds(worker), stolen_seconds()

    def share() -> float:
        free = arena.backend.busy_seconds(worker) - busy + stolen_seconds() - stolen
        return free / (time.monotonic() - start)

    while (passed := time.monotonic() - start) < seconds or (share() < LEAST_SHARE and passed < A_MINUTE):
        punched.act(aimed=True)
    return share()


def test_whose_memory_holds_the_worker_is_named_and_closed_and_comes_again_to_no_avail(
    arena: Arena, pytestconfig: pytest.Config
) -> None:
    """Its peer stays connected, and other guests keep nine tenths of the worker, also over a minute."""
    punched = Punched(arena)
    try:
        deadline = time.monotonic() + HELD_FOR_SO_LONG
        while "no front-end is taken for 1 s" not in arena.backend.log():
            punched.act(aimed=True)
            if time.monotonic() > deadline:
                raise Broken("I2", "a port whose memory keeps the worker waiting is not closed")
        arena.exchange("e", arena.friend)
        share = kept(arena, punched, A_MINUTE if endurance(pytestconfig) > 1 else SECONDS)
    finally:
        punched.stop()
    assert share >= LEAST_SHARE
    assert set(re.findall(r"port (\S+): .*the guest's memory kept worker0", arena.backend.log())) == {"a"}
    arena.victim.frontend.ask(Request.GET_FEATURES)
    arena.check_alive()
    print(f"kept {share:.3f}")


@pytest.mark.long
def test_over_a_minute_the_flood_keeps_nine_tenths_of_its_rate() -> None:
    """Beside the same processes that punch holes into memory of their own."""
    with contextlib.ExitStack() as stack:
        arena = Arena(fastvhost, more=["--idle", "poll"])
        stack.callback(arena.close)
        flood = arena.start_flood()
        stack.enter_context(arena.off_the_workers_core())
        punched = Punched(arena)
        stack.callback(punched.stop)
        arena.honest.pause(True)
        flood.start()
        alone = [flood.rate_while(lambda: punched.act(aimed=False), A_MINUTE / 6)]
        beside = flood.rate_while(lambda: punched.act(aimed=True), A_MINUTE)
        deadline = time.monotonic() + BACK_OFF
        while not punched.is_connected and time.monotonic() < deadline:
            punched.act(aimed=False)
        alone.append(flood.rate_while(lambda: punched.act(aimed=False), A_MINUTE / 6))
        flood.rest()
        assert "no front-end is taken for" in arena.backend.log()
    rates = [rate for rate in alone if rate]
    assert beside
    assert rates
    print(f"{beside / 1e6:.2f} Mpps, alone {', '.join(f'{rate / 1e6:.2f}' for rate in rates)}")
    assert beside >= LEAST_SHARE * statistics.mean(rates)
