"""No AIO context is to be had, from the very first notification on."""

from __future__ import annotations

import pytest

from tests.hostile.arena import Arena
from tests.hostile.attacks_shared import Toggled
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
    toggled: Toggled | None = None
    try:
        assert failing.failed("io_setup"), "nobody asked for a context"
        attacker = toggled = Toggled(scene)
        arena.beside_flood = True
        scene.in_turns(lambda: attacker.act(0), lambda: attacker.act(1), 4.0)
        arena.exchange("e", arena.friend)
        # Each refusal is logged, a little after the connection was closed: the last one came turns ago.
        refusals = arena.backend.log().count("threads that notify wait")
        assert refusals >= min(toggled.came - 1, 1)
    finally:
        failing.mend()
        if toggled:
            toggled.stop()
        scene.close()
        arena.close()
