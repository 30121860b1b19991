"""Descriptors whose last close waits for a mutex that another party holds: fwd's must not be the last."""

from __future__ import annotations

import os
import select

from tests.hostile.attacks_shared import enter_held
from tests.hostile.scene import Scene


def watched_eventfd(scene: Scene) -> tuple[int, int, str]:
    """Its last close takes the mutex of the epoll that watches it."""
    fd, epoll = scene.eventfd(), select.epoll()
    epoll.register(fd, select.EPOLLIN)
    os.eventfd_write(fd, 1)
    return fd, scene.adopt(os.dup(epoll.fileno())), "sits_under_an_epoll"


def a_pipe(scene: Scene) -> tuple[int, int, str]:
    """Its close takes the mutex that a reader holds."""
    read_end, write_end = map(scene.adopt, os.pipe())
    os.write(write_end, b"x")
    return write_end, read_end, "sits_in_a_pipe"


enter_held({"an_eventfd_that_a_held_epoll_watches": watched_eventfd, "a_pipe_that_is_held": a_pipe})
