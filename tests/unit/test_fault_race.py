"""A thread that loses its CPU in the SIGBUS handler, while other mappings end and begin."""

from __future__ import annotations

import os
import threading

from bench.guests.waits import MAX_WAIT
from tests.probes.fault_race import Scene
from tests.unit.service_rig import until


def test_a_mapping_that_begins_while_the_handler_stands_still_is_not_replaced_by_zeros() -> None:
    good, short, larger = (os.memfd_create(name) for name in ("good", "short", "larger"))
    os.ftruncate(good, 4096)
    os.write(larger, b"x" * 4096 * 4)
    scene = Scene(good, short)
    faulting = threading.Thread(target=scene.fault)
    replacing = threading.Thread(target=scene.replace, args=(larger,))
    faulting.start()
    until(lambda: scene.paused)
    replacing.start()
    replacing.join(0.05)
    scene.go_on()
    for thread in (faulting, replacing):
        thread.join(MAX_WAIT)
        assert not thread.is_alive()
    assert scene.faulted == (False, True)
    assert scene.first_byte() == ord("x")
    scene.close()
    for fd in (good, short, larger):
        os.close(fd)
