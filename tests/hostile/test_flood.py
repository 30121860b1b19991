"""The measurement of the honest flood finds a worker that an attack takes time from, however it does that."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.hostile.arena import Arena
from tests.hostile.backend import fastvhost
from tests.hostile.flood import LEAST_SHARE, Shares
from tests.hostile.invariant import Broken
from tests.hostile.mill import Mill, in_pieces
from tests.hostile.scene import Scene

pytestmark = pytest.mark.alone

PAUSE = 0.01
PAIRS = 3


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    made = Arena(fastvhost)
    made.start_flood()
    made.honest.pause(True)
    yield made
    made.honest.pause(False)
    made.close()


def measured(arena: Arena, act: Callable[[], object], quiet: Callable[[], object]) -> None:
    assert arena.flood
    shares = Shares(arena.flood, act, quiet)
    with arena.off_the_workers_core():
        shares.measure(LEAST_SHARE, PAIRS)


def test_without_an_attack_the_flood_keeps_its_rate(arena: Arena) -> None:
    measured(arena, lambda: time.sleep(PAUSE), lambda: time.sleep(PAUSE))


def test_a_worker_that_is_held_for_a_third_of_the_time_is_found(arena: Arena) -> None:
    def hold() -> None:
        start = time.monotonic()
        time.sleep(2 * PAUSE)
        os.kill(arena.backend.process.pid, signal.SIGSTOP)
        time.sleep((time.monotonic() - start) / 2)
        os.kill(arena.backend.process.pid, signal.SIGCONT)

    with pytest.raises(Broken, match="the honest flood kept"):
        measured(arena, hold, lambda: time.sleep(3 * PAUSE))


def test_a_worker_that_works_for_another_port_for_a_third_of_the_time_is_found(arena: Arena) -> None:
    """The flood's ports are two of three that send. That is their fair share, and less than nine tenths."""
    scene = Scene(arena)
    mill = Mill(scene, in_pieces(1020, 1))
    try:
        with pytest.raises(Broken, match="the honest flood kept"):
            measured(arena, mill.turn, lambda: mill.turn(on=False))
    finally:
        mill.close()
        scene.close()
