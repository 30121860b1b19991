"""No AIO context is to be had, from the very first notification on."""

from __future__ import annotations

import os

import pytest

from tests.frontend import Request
from tests.hostile.accomplice import EFD_MAXIMUM, Accomplice
from tests.hostile.arena import Arena
from tests.hostile.attacks_shared import Notified
from tests.hostile.failing import Failing, build
from tests.hostile.scene import Scene


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Failing:
    directory = tmp_path_factory.mktemp("failing")
    return Failing(build(directory), directory / "board")


def test_without_aio_contexts_nobody_can_make_a_worker_wait(failing: Failing) -> None:
    """A full call eventfd whose owner switches O_NONBLOCK on and off: to look, and then to write, loses that race."""
    failing.fail("io_setup")
    try:
        arena = Arena(failing.start)
    except BaseException:
        failing.mend()
        raise
    scene = Scene(arena)
    toggler = None
    try:
        assert failing.failed("io_setup"), "nobody asked for a context"
        notified = Notified(scene, Request.SET_VRING_CALL)
        for fd in notified.fds:
            os.eventfd_write(fd, EFD_MAXIMUM)
        arena.beside_flood = True
        toggler = Accomplice("toggles_blocking", notified.fds[:1], aimed=True)
        scene.in_turns(lambda: notified.act(0), lambda: notified.act(1), 4.0)
        arena.exchange("e", arena.friend)
    finally:
        failing.mend()
        if toggler:
            toggler.stop()
        scene.close()
        arena.close()
