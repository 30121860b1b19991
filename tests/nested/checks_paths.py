"""Paths 3 and 4 of the deck, whole: App1 by libpcap beside vhost-net, and App1 behind a device file of its own."""

from __future__ import annotations

from typing import Any

from bench.paths import measure


def both_ways(number: int) -> dict[str, Any]:
    """The row of a path on which frames crossed each way, none of them spoilt."""
    (row,) = measure(number, 2, 300)
    for direction in ("in", "out", "bounce"):
        assert row[direction]["intact"] >= 10, row
    assert (row["corrupt"], row["duplicated"]) == (0, 0), row
    return row


def test_path_3_app1_talks_through_the_tap_of_a_guest_that_the_kernel_serves() -> None:
    row = both_ways(3)
    # It was vhost-net that moved the frames, and not QEMU in its place.
    assert row["in"]["cpu_seconds_per_million_frames"]["kernel_thread"] > 0


def test_path_4_app1_is_the_vhost_net_of_its_guest() -> None:
    row = both_ways(4)
    assert row["in"]["cpu_seconds_per_million_frames"]["kernel_thread"] == 0
    # fastvhost waits while a receiver has no buffer, in both directions.
    assert (row["in"]["lost"], row["out"]["lost"]) == (0, 0)
