"""DPDK's virtio-user as both guests, with any rings, on sockets or device files: its driver and fwd count the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.guests.fwd import Fwd
from bench.guests.waits import wait_until
from tests.integration.virtio_user import PortCounters, VirtioUser


@dataclass(frozen=True)
class Shape:
    """The rings that the guests ask for."""

    ring_size: int = 256
    mergeable: bool = True
    packed: bool = False
    in_order: bool = False
    queue_pairs: int = 1

    @property
    def features(self) -> dict[str, bool]:
        """Features that must be negotiated, and that must not be."""
        return {"MRG_RXBUF": self.mergeable, "RING_PACKED": self.packed, "IN_ORDER": self.in_order}


SHAPES = {
    "mergeable, 256": Shape(),
    "mergeable, 1024": Shape(ring_size=1024),
    "not mergeable, 256": Shape(mergeable=False),
    "not mergeable, 1024": Shape(ring_size=1024, mergeable=False),
    "split in order": Shape(in_order=True),
    "packed": Shape(packed=True),
    "packed, not mergeable, 1024": Shape(ring_size=1024, mergeable=False, packed=True),
    "packed in order": Shape(packed=True, in_order=True),
    "split, four queue pairs": Shape(queue_pairs=4),
    "packed, four queue pairs": Shape(packed=True, queue_pairs=4),
}


@dataclass(frozen=True)
class Way:
    """How guests connect to fwd. specs: the ports, without queues=; paths: sockets or device files for the guests."""

    specs: Sequence[str]
    paths: Sequence[Path]
    options: Sequence[str] = ()


def by_sockets(directory: Path) -> Way:
    paths = [directory / f"{name}.sock" for name in "ab"]
    return Way([f"vhost-user:{path}" for path in paths], paths)


def by_device_files() -> Way:
    """By vhost-net device files. In an outer guest, where a polling worker would take CPU time from the guests."""
    files = [Path(f"/dev/fv-{name}") for name in "ab"]
    return Way([f"cuse:{file.name},name={file.name[-1]}" for file in files], files, ["--idle", "interrupt"])


def flood(directory: Path, way: Way, shape: Shape, seconds: float) -> None:
    """Send frames of three kinds in turn, for `seconds`, and compare the counters of both sides."""
    # The last size is too large for one receive buffer, or just fits. With commas: several pieces.
    frames = ["64", "700,700", "1000,2000,600" if shape.mergeable else "1000,518"]
    # Between two floods the guests take no frames for longer than the 100 ms after which fwd would drop.
    options = ["--hold-timeout", "10s", *way.options]
    ports = [f"{spec},queues={shape.queue_pairs}" for spec in way.specs]
    with (
        Fwd(directory, ports, options) as fwd,
        VirtioUser(
            directory,
            way.paths,
            ring_size=shape.ring_size,
            mergeable=shape.mergeable,
            packed=shape.packed,
            in_order=shape.in_order,
            queue_pairs=shape.queue_pairs,
        ) as guests,
    ):
        for name in "ab":
            agreed = fwd.wait_log(f"port {name}: features .*", 20)[0].split()
            assert {feature: feature in agreed for feature in shape.features} == shape.features
        for frame in frames:
            guests.flood(frame)
            before = fwd.frames()
            time.sleep(seconds / len(frames))
            # Frames circulated until the end.
            wait_until("frames go round", 60, lambda before=before: fwd.frames() > before + 1000)
        guests.drain()
        counted_the_same(fwd, guests)
        # testpmd keeps a frame on its queue, and so does fwd: each queue carried its burst again and again.
        rings = [ring for name in "ab" for ring in fwd.show(name)["rings"]]
        by_ring = [ring["frames"] for ring in rings if ring["index"] % 2]
        assert len(by_ring) == 2 * shape.queue_pairs
        assert min(by_ring) > 1000
        assert {ring["size"] for ring in rings} == {shape.ring_size}
        assert fwd.dropped() == 0
        assert fwd.warnings() == []
        guests.quit()
        for name in "ab":
            fwd.wait_log(f"port {name}: disconnected: the front-end (closed|ended); listening again", 20)


def counted_the_same(fwd: Fwd, guests: VirtioUser) -> None:
    """Wait until no frame is in flight and both sides have counted the same."""
    seconds, deadline = 0.0, time.monotonic() + 60
    while seconds < 0.3:
        began = time.monotonic()
        ours, theirs = counters(fwd), guests.counters()
        if ours != theirs:
            # Frames in flight: fwd's worker, or testpmd's, may not have had a CPU for a while.
            assert time.monotonic() < deadline, f"fwd counted {ours}, the guests {theirs}"
            seconds = 0.0
        time.sleep(0.1)
        seconds += (time.monotonic() - began) * (ours == theirs)


def counters(fwd: Fwd) -> list[PortCounters]:
    """fwd's counters from the guests' view: frames that fwd sent are received."""
    ports = fwd.stats()["ports"]
    return [
        PortCounters(
            rx_frames=ports[name]["tx_frames"], rx_bytes=ports[name]["tx_bytes"],
            tx_frames=ports[name]["rx_frames"], tx_bytes=ports[name]["rx_bytes"],
        )
        for name in "ab"
    ]  # fmt: skip
