"""No AIO context is to be had, from the very first notification on."""

from __future__ import annotations

import os

import pytest

from tests.frontend import Closed, Request
from tests.hostile.accomplice import EFD_MAXIMUM, Accomplice
from tests.hostile.arena import Arena
from tests.hostile.attacks_shared import Notified
from tests.hostile.failing import Failing, build
from tests.hostile.scene import Scene

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Failing:
    directory = tmp_path_factory.mktemp("failing")
    return Failing(build(directory), directory / "board")


def test_without_aio_contexts_nobody_can_make_a_worker_wait(failing: Failing) -> None:
    """A full call eventfd whose owner switches O_NONBLOCK on and off: to look, and then to write, loses that race.

    The threads that notify the attacker lose it now and then. With four of them held its front-end is refused, in
    words, and comes again.
    """
    failing.fail("io_setup")
    try:
        arena = Arena(failing.start)
    except BaseException:
        failing.mend()
        raise
    scene = Scene(arena)
    attackers: list[tuple[Notified, Accomplice]] = []

    def come() -> None:
        notified = Notified(scene, Request.SET_VRING_CALL)
        for fd in notified.fds:
            os.eventfd_write(fd, EFD_MAXIMUM)
        attackers.append((notified, Accomplice("toggles_blocking", notified.fds[:1], aimed=True)))

    def act(which: int) -> None:
        notified, toggler = attackers[-1]
        try:
            notified.act(which)
        except (Closed, BrokenPipeError, ConnectionResetError):
            toggler.stop()
            come()

    try:
        assert failing.failed("io_setup"), "nobody asked for a context"
        come()
        arena.beside_flood = True
        scene.in_turns(lambda: act(0), lambda: act(1), 4.0)
        arena.exchange("e", arena.friend)
        # Each refusal is logged, a little after the connection was closed: the last one came turns ago.
        refusals = arena.backend.log().count("threads that notify wait")
        assert refusals >= min(len(attackers) - 1, 1)
    finally:
        failing.mend()
        for _, toggler in attackers:
            toggler.stop()
        scene.close()
        arena.close()
