"""DPDK's virtio-user on vhost-net's device file: the same frames round and round as on a socket, none lost."""

from __future__ import annotations

import time
from pathlib import Path

from tests.integration.fwd import Fwd
from tests.integration.virtio_user import VirtioUser
from tests.integration.waits import wait_until
from tests.short_dir import short_dir


def test_virtio_user_forwards_between_two_device_files_and_loses_nothing() -> None:
    # A guest here may not run for longer than a receiver is usually waited for, and frames that go round would die out.
    patient = ["--idle", "interrupt", "--hold-timeout", "10s"]
    with short_dir() as directory, Fwd(directory, ["cuse:fvc", "cuse:fvd"], patient) as fwd:
        files = [Path("/dev/fvc"), Path("/dev/fvd")]
        with VirtioUser(directory, files, ring_size=256, mergeable=True, in_order=False) as guests:
            for frame in ("64", "700,700"):
                before = fwd.frames()
                guests.flood(frame)
                wait_until("frames go round", 60, lambda before=before: fwd.frames() > before + 1000)
            guests.drain()
            settled(fwd)
            ports = fwd.stats()["ports"]
            for name, guest in zip(("fvc", "fvd"), guests.counters(), strict=True):
                assert (ports[name]["rx_frames"], ports[name]["rx_bytes"]) == (guest.tx_frames, guest.tx_bytes)
                assert (ports[name]["tx_frames"], ports[name]["tx_bytes"]) == (guest.rx_frames, guest.rx_bytes)
            assert fwd.dropped() == 0
            guests.flood("64")
            guests.kill()
            fwd.wait_log("port fvc: disconnected: the front-end (closed|ended); listening again", 20)
            fwd.wait_log("port fvd: disconnected: the front-end (closed|ended); listening again", 20)


def settled(fwd: Fwd) -> None:
    """Wait until no frame is on its way any more."""

    def unchanged() -> bool:
        before = fwd.frames()
        time.sleep(1)
        return before == fwd.frames()

    wait_until("no frame is on its way", 60, unchanged)
