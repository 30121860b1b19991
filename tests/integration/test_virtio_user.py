"""DPDK's virtio-user as both guests: its driver and fwd count the same, whatever ring it asks for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.integration.fwd import Fwd
from tests.integration.virtio_user import VirtioUser
from tests.integration.waits import wait_until

FLOOD_SECONDS = 10.0


SHAPES = {
    "split": {"in_order": False},
    "split in order": {"in_order": True},
    "packed": {"in_order": False, "packed": True},
    "packed in order": {"in_order": True, "packed": True},
}


@pytest.mark.parametrize("ring_size", [256, 1024])
@pytest.mark.parametrize("mergeable", [True, False], ids=["mergeable", "not mergeable"])
def test_counters_of_both_sides_are_equal(place: Path, ring_size: int, mergeable: bool) -> None:
    flood(place, ring_size=ring_size, mergeable=mergeable)


@pytest.mark.parametrize(
    ("packed", "in_order"),
    [(False, True), (True, False), (True, True)],
    ids=["split in order", "packed", "packed in order"],
)
def test_counters_are_equal_for_other_kinds_of_rings_too(place: Path, packed: bool, in_order: bool) -> None:
    flood(place, ring_size=256, mergeable=True, packed=packed, in_order=in_order)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_counters_are_equal_over_four_queue_pairs_and_each_of_them_carries_its_share(place: Path, packed: bool) -> None:
    flood(place, ring_size=256, mergeable=True, packed=packed, queue_pairs=4)


def flood(
    place: Path,
    *,
    ring_size: int,
    mergeable: bool,
    packed: bool = False,
    in_order: bool = False,
    queue_pairs: int = 1,
) -> None:
    """Send frames of three kinds in turn, and compare what both sides counted."""
    # The last kind is too large for one receive buffer, or just small enough. With commas: of several pieces.
    frames = ["64", "700,700", "1000,2000,600" if mergeable else "1000,518"]
    sockets = [place / "a.sock", place / "b.sock"]
    # Between two floods the guests take nothing for longer than the 100 ms after which fwd would drop.
    patience = ["--hold-timeout", "10s"]
    with (
        Fwd(place, [f"vhost-user:{path},queues={queue_pairs}" for path in sockets], patience) as fwd,
        VirtioUser(
            place,
            sockets,
            ring_size=ring_size,
            mergeable=mergeable,
            packed=packed,
            in_order=in_order,
            queue_pairs=queue_pairs,
        ) as guests,
    ):
        features = fwd.wait_log("port b: features .*", 1)[0].split()
        assert ("MRG_RXBUF" in features, "RING_PACKED" in features, "IN_ORDER" in features) == (
            mergeable,
            packed,
            in_order,
        )
        for frame in frames:
            guests.flood(frame)
            before = fwd.frames()
            time.sleep(FLOOD_SECONDS / len(frames))
            # They went round until the end.
            assert fwd.frames() > before + 1000
        guests.drain()
        settled(fwd, guests)

        ports = fwd.stats()["ports"]
        for port, guest in zip((ports["a"], ports["b"]), guests.counters(), strict=True):
            assert (port["rx_frames"], port["rx_bytes"]) == (guest.tx_frames, guest.tx_bytes)
            assert (port["tx_frames"], port["tx_bytes"]) == (guest.rx_frames, guest.rx_bytes)
        # testpmd keeps a frame to the queue it came from, and so do we: each carried its burst round and round.
        by_ring = [ring["frames"] for name in "ab" for ring in fwd.show(name)["rings"] if ring["index"] % 2]
        assert len(by_ring) == 2 * queue_pairs
        assert min(by_ring) > 1000
        assert fwd.dropped() == 0
        assert fwd.warnings() == []
        guests.quit()


def settled(fwd: Fwd, guests: VirtioUser) -> None:
    """Wait until no frame is on its way any more."""

    def unchanged() -> bool:
        before = fwd.frames(), guests.counters()
        time.sleep(0.3)
        return before == (fwd.frames(), guests.counters())

    wait_until("no frame is on its way", 30, unchanged)
