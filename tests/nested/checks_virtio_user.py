"""DPDK's virtio-user on vhost-net's device file: every kind of ring that it has on a socket, and its sudden end."""

from __future__ import annotations

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.waits import wait_until
from tests.integration.flood import SHAPES, by_device_files, flood
from tests.integration.virtio_user import VirtioUser

FLOOD_SECONDS = 1.5
"""After that the test waits for a thousand frames, however long they take."""


ALWAYS = {"packed in order", "split, four queue pairs"}
"""One of each format, one of several queues. On sockets all are flooded, and the first one is killed below."""


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=() if shape in ALWAYS else pytest.mark.long) for shape in SHAPES],
    ids=list(SHAPES),
)
def test_counters_of_both_sides_are_equal_on_device_files_too(shape: str) -> None:
    with short_dir() as place:
        flood(place, by_device_files(), SHAPES[shape], FLOOD_SECONDS)


def test_virtio_user_killed_under_traffic_leaves_both_ports_waiting_and_the_next_one_is_served() -> None:
    shape, way = SHAPES["mergeable, 256"], by_device_files()
    with short_dir() as place, Fwd(place, way.specs, way.options) as fwd:
        for _ in range(2):
            mark, before = len(fwd.log()), fwd.frames()
            with VirtioUser(
                place, way.paths, ring_size=shape.ring_size, mergeable=shape.mergeable, in_order=False
            ) as guests:
                guests.flood("64")
                wait_until("frames go round", 60, lambda before=before: fwd.frames() > before + 1000)
                guests.kill()
            for name in "ab":
                end = f"port {name}: disconnected: the front-end (closed|ended); listening again"
                fwd.wait_log(end, after=mark)
