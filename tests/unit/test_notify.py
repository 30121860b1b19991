"""Telling a driver never waits for it, whatever its front-end does to the eventfd."""

from __future__ import annotations

import os
import threading

import pytest

from tests.unit.rig import frame, rig

FULL = 2**64 - 2


@pytest.mark.parametrize("index", [0, 1])
def test_a_call_fd_made_blocking_again_and_full_does_not_hold_the_worker(index: int) -> None:
    with rig() as r:
        side = r.b if index == 0 else r.a
        os.eventfd_write(side.call[index], FULL)
        os.set_blocking(side.call[index], True)
        r.b.driver.post(200)

        def flood() -> None:
            for n in range(200):
                r.a.driver.send(frame(n))
                r.worker.step()

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "the worker waits for its peer's eventfd"
        assert len(r.b.driver.receive_all()) == 200
        os.set_blocking(side.call[index], False)
        assert side.calls(index) in (FULL, FULL + 1)  # the kernel's own ceiling, and nothing lost of it


def test_many_notifications_are_all_counted() -> None:
    """More than the completions that are kept before somebody looks at them."""
    with rig() as r:
        r.b.driver.post(250)
        for n in range(1000):
            r.a.driver.send(frame(n))
            r.worker.step()
            assert r.b.driver.receive(0) == frame(n)
        assert r.b.calls(0) == 1000
