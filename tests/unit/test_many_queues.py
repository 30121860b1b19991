"""128 queue pairs over a real socket, by the built-in front-end: GET_QUEUE_NUM, SET_VRING_ENABLE of some, floods."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.backend.payload import SharedRegion
from fastvhost.control.control_client import ask
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature, FrontEnd
from fastvhost.driver.guests import Guests, PairSettings
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings
from tests.unit.test_driver_guests import fwd

MOST = 128
SIZE = 16
SETTINGS = GuestSettings(queue_size=SIZE, queues=MOST, sizes=(64, 1518), content="whole", huge=False)
WISH = Feature.PROTOCOL_FEATURES | Feature.VERSION_1 | Feature.MRG_RXBUF | Feature.MQ
RINGS = {"split": Feature(0), "packed": Feature.RING_PACKED}


@contextlib.contextmanager
def flooded(directory: Path, ring: str, enabled: range) -> Iterator[tuple[FrontEnd, GuestDevice, GuestDevice]]:
    """A floods all of its 128 transmitqs; B has 128 receiveqs, set up, and those in `enabled` enabled."""
    with contextlib.ExitStack() as closing:
        paths = closing.enter_context(fwd(directory, f",queues={MOST}"))
        front_ends, devices = [], []
        for tag, path, pairs in zip((1, 2), paths, (range(MOST), enabled), strict=True):
            front_end = FrontEnd(path)
            closing.callback(front_end.close)
            front_end.connect()
            features = front_end.negotiate(WISH | RINGS[ring])
            assert features & RINGS[ring] == RINGS[ring]
            assert front_end.queue_pairs == MOST  # what GET_QUEUE_NUM says
            device = GuestDevice(SETTINGS, features=int(features), tag=tag, peer_tag=3 - tag, sends=tag == 1)
            closing.callback(device.close)
            ram = device.ram
            front_end.share_memory(ram.fd, SharedRegion(ram.guest_addr, ram.bytes, ram.user_addr, 0))
            for index in range(2 * MOST):
                kick, call = device.kick_fds[index], device.call_fds[index]
                front_end.start_ring(index, SIZE, device.ring_addresses(index), kick, call, device.base)
            for pair in pairs:
                enable(front_end, pair)
            front_ends.append(front_end)
            devices.append(device)
        load = Load(*devices)
        load.flood()
        thread = threading.Thread(target=load.run)
        thread.start()
        try:
            yield front_ends[1], devices[0], devices[1]
            load.drain()
            settled(devices[0], devices[1], str(directory / "control.sock"))
        finally:
            load.stop()
            thread.join()


def enable(front_end: FrontEnd, pair: int, on: bool = True) -> None:
    for index in (2 * pair, 2 * pair + 1):
        front_end.enable_ring(index, on)


def settled(a: GuestDevice, b: GuestDevice, control: str) -> None:
    """Everything that was sent has arrived."""
    deadline = time.monotonic() + MAX_WAIT
    while a.unreturned or b.received[0] < a.sent[0]:
        if time.monotonic() > deadline:
            counters = ask(control, "stats")["ports"]
            raise AssertionError(f"{a.sent[0]} frames were sent, {b.received[0]} came: {counters}")
        time.sleep(0.005)


def arrived(b: GuestDevice) -> list[int]:
    return [received for _, received in b.by_queue]


def wait_until_only(pairs: range, b: GuestDevice) -> None:
    """Wait until frames come through these receiveqs, and for a tenth of a second through no other."""
    deadline = time.monotonic() + MAX_WAIT
    moved: set[int] = set()
    while moved != set(pairs):
        assert time.monotonic() < deadline, f"frames come through {sorted(moved)}"
        before = arrived(b)
        time.sleep(0.1)  # where the guests get no CPU meanwhile, it takes longer
        moved = {pair for pair, (then, now) in enumerate(zip(before, arrived(b), strict=True)) if now > then}


def all_moved(load: Guests) -> bool:
    return min(min(queue) for guest in load.by_queue for queue in guest) > SIZE


@pytest.mark.parametrize("ring", RINGS)
def test_each_of_128_flooded_pairs_keeps_to_its_own_queue_over_a_real_socket(ring: str) -> None:
    with short_dir() as directory, fwd(directory, f",queues={MOST}") as (a, b):
        settings = PairSettings(queues=MOST, queue_size=SIZE, packed=ring == "packed", content="whole", huge=False)
        load = Guests(a, b, settings)
        load.start()
        wait_until("each queue has more frames than it holds", MAX_WAIT, lambda: all_moved(load))
        counters = load.stop_load()
        assert counters.lost == counters.corrupt == counters.reordered == counters.duplicated == 0
        for sent, received in (load.by_queue, load.by_queue[::-1]):
            assert [n for _, n in received] == [n for n, _ in sent]
            assert min(n for n, _ in sent) > SIZE
        load.stop()


@pytest.mark.parametrize("ring", RINGS)
def test_frames_come_through_the_pairs_that_are_enabled_and_through_no_other(ring: str) -> None:
    with short_dir() as directory, flooded(directory, ring, range(5)) as (front_end, a, b):
        wait_until_only(range(5), b)
        for pair in range(5, 100):
            enable(front_end, pair)
        wait_until_only(range(100), b)
        for pair in range(3, 100):
            enable(front_end, pair, False)
        wait_until_only(range(3), b)
        (shown,) = ask(str(directory / "control.sock"), "show", port="b")
        assert [ring["index"] for ring in shown["rings"] if ring["enabled"]] == list(range(6))
    assert b.received[0] == a.sent[0]
    # Frames may overtake others where a flow changes its queue; none is lost, doubled or harmed.
    assert (b.received[2], b.received[4]) == (0, 0)


@pytest.mark.parametrize("ring", RINGS)
def test_pairs_enabled_and_disabled_under_a_flood_lose_no_frame_and_double_none(ring: str) -> None:
    with short_dir() as directory, flooded(directory, ring, range(MOST)) as (front_end, a, b):
        active = MOST
        # About 640 changes and 256 rings that start: within what a port may ask for at once.
        for wanted in (64, 63, 7, 100, 1, 5):
            for pair in range(min(active, wanted), max(active, wanted)):
                enable(front_end, pair, wanted > active)
            active = wanted
            more = a.sent[0] + 1000
            wait_until("a thousand frames", MAX_WAIT, lambda more=more: a.sent[0] > more)
    assert b.received[0] == a.sent[0] > 1000
    assert (b.received[2], b.received[4]) == (0, 0)
