"""Paths 3 and 4 of the deck, whole: App1 by libpcap beside vhost-net, and App1 behind a device file of its own."""

from __future__ import annotations

from typing import Any

from bench.paths import measure


def run(number: int) -> dict[str, Any]:
    return measure(number, 3, 300, round_trips=False)


def test_path_3_app1_talks_through_the_tap_of_a_guest_that_the_kernel_serves() -> None:
    row = run(3)
    assert row["intact"] >= 10, row
    assert (row["corrupt"], row["duplicated"]) == (0, 0)
    # It was vhost-net that moved the frames, and not QEMU in its place.
    assert row["cpu_seconds_per_million_frames"]["kernel_thread"] > 0


def test_path_4_app1_is_the_vhost_net_of_its_guest() -> None:
    row = run(4)
    assert row["intact"] >= 10, row
    assert (row["corrupt"], row["duplicated"]) == (0, 0)
