"""The built-in guests with several queue pairs, and guests that sleep until they are notified."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.guests import Guests, GuestsError, PairSettings
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings
from tests.unit.fake_device import FakeWire
from tests.unit.test_driver_guests import fwd

SIZE = 16
QUEUES = 3


@contextlib.contextmanager
def guests() -> Iterator[tuple[GuestDevice, GuestDevice, Load]]:
    """A sends on three queue pairs, b receives on three."""
    settings = GuestSettings(queue_size=SIZE, queues=QUEUES, content="whole", kick=False, huge=False)
    features = int(Feature.VERSION_1)
    devices = [GuestDevice(settings, features=features, tag=tag, peer_tag=3 - tag, sends=tag == 1) for tag in (1, 2)]
    try:
        yield devices[0], devices[1], Load(*devices)
    finally:
        for device in devices:
            device.close()


@pytest.mark.parametrize("shift", [0, 1], ids=["to the queue of its number", "to the next queue"])
def test_every_queue_counts_and_checks_its_own_frames(shift: int) -> None:
    with guests() as (a, b, load):
        wires = [FakeWire(a, b, SIZE, queue=n, to_queue=(n + shift) % QUEUES) for n in range(QUEUES)]
        for turn in range(20):
            load.step()
            for wire in wires[: 1 + turn % QUEUES]:    # the first queue carries most
                wire.carry()
        load.step()
        assert b.received[2:] == (0, 0, 0, 0)
        sent, received = [n for n, _ in a.by_queue], [n for _, n in b.by_queue]
        assert sent[0] > sent[1] > sent[2] > 0
        assert received == [sent[(n - shift) % QUEUES] - SIZE for n in range(QUEUES)]
        assert b.received[0] == sum(received)


def test_two_flows_through_one_queue_are_checked_apart() -> None:
    with guests() as (a, b, load):
        first, second = (FakeWire(a, b, SIZE, queue=n) for n in range(2))
        second.target, second.room = first.target, first.room
        kept: list[bytes] = []

        def half_each(frames: list[bytes]) -> list[bytes]:
            kept.extend(frames[:8])
            return []

        def interleaved(frames: list[bytes]) -> list[bytes]:
            both = [frame for pair in zip(kept, frames[:8], strict=True) for frame in pair]
            kept.clear()
            return both

        first.tamper, second.tamper = half_each, interleaved
        load.step()
        first.carry()
        second.carry()
        load.step()
        assert b.by_queue == [(0, 16), (0, 0), (0, 0)]
        assert b.received[2:] == (0, 0, 0, 0)


def test_a_frame_out_of_order_in_one_queue_is_found_out() -> None:
    with guests() as (a, b, load):
        wires = [FakeWire(a, b, SIZE, queue=n, to_queue=n) for n in range(QUEUES)]
        wires[1].tamper = lambda frames: [frames[1], frames[0], *frames[2:]]
        load.step()
        for wire in wires:
            wire.carry()
        load.step()
        assert b.received[2:] == (0, 1, 0, 0)


def test_more_queue_pairs_than_the_back_end_has_are_refused_in_words() -> None:
    with (
        short_dir() as directory,
        fwd(directory) as (a, b),
        pytest.raises(GuestsError, match="2 queue pairs are wished for and the back-end has 1"),
    ):
        Guests(a, b, PairSettings(queues=2)).connect()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_several_queue_pairs_flood_a_real_fwd(packed: bool) -> None:
    with short_dir() as directory, fwd(directory, ",queues=4") as (a, b):
        load = Guests(a, b, PairSettings(queues=4, packed=packed, queue_size=128))
        load.start()
        wait_until("frames of every queue", MAX_WAIT, lambda: all(sent > 100 for sent, _ in load.by_queue[0]))
        counters = load.stop_load()
        assert counters.lost == counters.corrupt == counters.reordered == counters.duplicated == 0
        for sent, received in zip(*load.by_queue, strict=True):
            assert sent[0] > 100
            assert received[1] == sent[0]
        load.stop()


@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event idx"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_guests_that_sleep_are_woken_by_every_frame(packed: bool, event_idx: bool) -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        load = Guests(a, b, PairSettings(packed=packed, event_idx=event_idx, sleeps=True, queue_size=4))
        load.start()
        wait_until("it has slept", MAX_WAIT, lambda: load.naps > 10 and load.counters().frames > 100)
        final = load.stop_load()
        assert load.stalls == 0
        assert final.lost == final.corrupt == final.reordered == 0
        load.stop()
