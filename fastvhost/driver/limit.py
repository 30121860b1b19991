"""The rate that this machine allows with one unchecked copy per frame, under the load of the built-in guests."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence

from fastvhost.driver.copy_limit import CopyLimit
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings

__all__ = ["copy_limit"]

SETTLE_SECONDS = 0.05


def copy_limit(
    sizes: Sequence[int], seconds: float, *, both_ways: bool = True, copy_core: int | None, guests_core: int | None
) -> float:
    """Frames per second through the bare copy loop, which runs in a thread of its own, as the guests do."""
    settings, features = GuestSettings(sizes=tuple(sizes), kick=False), int(Feature.VERSION_1)
    devices = [
        GuestDevice(settings, features=features, tag=tag, peer_tag=3 - tag, sends=both_ways or tag == 1)
        for tag in (1, 2)
    ]
    wire, load = CopyLimit(*devices), Load(*devices)
    threads = [_pinned(wire.run, copy_core), _pinned(load.run, guests_core)]
    try:
        time.sleep(SETTLE_SECONDS)
        start, before = time.monotonic(), _received(devices)
        time.sleep(seconds)
        return (_received(devices) - before) / (time.monotonic() - start)
    finally:
        load.stop()
        wire.stop()
        for thread in threads:
            thread.join()
        for device in devices:
            device.close()


def _received(devices: Sequence[GuestDevice]) -> int:
    return sum(device.received[0] for device in devices)


def _pinned(work: Callable[[], None], core: int | None) -> threading.Thread:
    def run() -> None:
        if core is not None:
            with contextlib.suppress(OSError):  # a sandbox forbids pinning
                os.sched_setaffinity(0, {core})
        work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
