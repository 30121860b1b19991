"""The built-in driver's traffic: its counts are right, and it notices every fault of a device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.guests import IMIX
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings
from tests.unit.fake_device import FakeWire

SIZE = 16
USUAL = GuestSettings(queue_size=SIZE, kick=False, huge=False)
PACKED = Feature.VERSION_1 | Feature.RING_PACKED
FORMATS = pytest.mark.parametrize("ring", [Feature.VERSION_1, PACKED], ids=["split", "packed"])
HEADER = 12
NUMBER = HEADER + 14
BODY = HEADER + 30


@dataclass
class Pair:
    """Guest a sends, guest b receives, a fake device between them."""

    a: GuestDevice
    b: GuestDevice
    load: Load
    wire: FakeWire

    def go(self, rounds: int) -> None:
        for _ in range(rounds):
            self.load.step()
            self.wire.carry()
        self.load.step()

    @property
    def faults(self) -> tuple[int, int, int, int]:
        """Corrupt, reordered, duplicated, missing."""
        return self.b.received[2:]


@contextlib.contextmanager
def pair(features: Feature = Feature.VERSION_1, **others: Any) -> Iterator[Pair]:
    """others: settings that are not the usual ones."""
    settings = replace(USUAL, **others)
    devices = [
        GuestDevice(settings, features=int(features), tag=tag, peer_tag=3 - tag, sends=tag == 1) for tag in (1, 2)
    ]
    wire = FakeWire(devices[0], devices[1], settings.queue_size, mergeable=bool(features & Feature.MRG_RXBUF))
    try:
        yield Pair(devices[0], devices[1], Load(*devices), wire)
    finally:
        for device in devices:
            device.close()


@pytest.mark.parametrize("content", ["none", "numbers", "whole"])
@pytest.mark.parametrize("sizes", [(60,), (64,), (1518,), IMIX])
@pytest.mark.parametrize(("pieces", "indirect"), [(1, False), (2, False), (4, False), (5, True), (16, True)])
@pytest.mark.parametrize(
    "features",
    [Feature.VERSION_1, Feature.VERSION_1 | Feature.MRG_RXBUF, Feature(0), PACKED, PACKED | Feature.MRG_RXBUF],
)
def test_every_frame_arrives_intact_and_in_order(
    features: Feature, pieces: int, indirect: bool, sizes: tuple[int, ...], content: str
) -> None:
    wish = features | (Feature.INDIRECT_DESC if indirect else Feature(0))
    with pair(wish, sizes=sizes, pieces=pieces, content=content) as p:
        p.go(20)
        assert p.wire.chain_shapes == {pieces}
        assert p.a.sent[0] > 50
        p.load.drain()
        p.go(1)
        assert p.b.received[:2] == p.a.sent
        assert p.faults == (0, 0, 0, 0)
        assert p.a.unreturned == 0


@FORMATS
@pytest.mark.parametrize("content", ["none", "numbers", "whole"])
def test_a_frame_longer_than_a_buffer_is_put_together_from_several(content: str, ring: Feature) -> None:
    sizes = (9000, 60, 2037)    # 2037 + header: one byte more than a buffer holds
    with pair(features=ring | Feature.MRG_RXBUF, sizes=sizes, content=content) as p:
        keep: list[bytes] = []

        def two_at_a_time(frames: list[bytes]) -> list[bytes]:
            keep.extend(frames)   # five buffers a long frame, sixteen in the ring
            out, keep[:] = keep[:2], keep[2:]
            return out

        p.wire.tamper = two_at_a_time
        p.go(30)
        assert p.b.received[0] == 60
        assert p.b.received[1] == sum(sizes[n % SIZE % 3] for n in range(60))
        assert p.faults == (0, 0, 0, 0)


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
@pytest.mark.parametrize("queue_size", [7, 10, 33])
def test_a_packed_ring_may_have_any_size_and_chains_lie_across_its_end(queue_size: int, pieces: int) -> None:
    with pair(features=PACKED, queue_size=queue_size, pieces=pieces, content="whole", sizes=(200,)) as p:
        p.go(60)
        assert p.a.sent[0] >= 60 * (queue_size // pieces)
        assert p.b.received[0] > 50
        assert p.faults == (0, 0, 0, 0)


@FORMATS
def test_buffers_that_come_back_in_another_order_are_used_again(ring: Feature) -> None:
    with pair(features=ring, content="whole", sizes=(100,)) as p:
        p.wire.shuffle = True
        p.go(40)
        assert p.b.received[0] == p.a.sent[0] - SIZE == 40 * SIZE
        assert p.faults == (0, 0, 0, 0)
        assert not p.a.broken
        assert not p.b.broken


def test_numbers_survive_the_wrap_of_the_ring_indices() -> None:
    with pair() as p:
        while p.a.sent[0] < 66000:
            p.go(100)
        assert p.b.received[0] > 65990
        assert p.faults == (0, 0, 0, 0)


def flipped(frames: list[bytes], at: int) -> list[bytes]:
    broken = bytearray(frames[3])
    broken[at] ^= 0x10
    return [*frames[:3], bytes(broken), *frames[4:]]


FAULTS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], tuple[int, int, int, int]]] = {
    "one frame dropped": (lambda f: f[:5] + f[6:], (0, 0, 0, 1)),
    "three frames dropped in a row": (lambda f: f[:5] + f[8:], (0, 0, 0, 3)),
    "two frames swapped": (lambda f: [*f[:5], f[6], f[5], *f[7:]], (0, 1, 0, 0)),
    "the first of four last": (lambda f: [*f[:2], *f[3:6], f[2], *f[6:]], (0, 1, 0, 0)),
    "four frames backwards": (lambda f: [*f[:2], *f[5:1:-1], *f[6:]], (0, 3, 0, 0)),
    "one frame twice": (lambda f: [*f[:5], f[4], *f[5:-1]], (0, 0, 1, 1)),
    "a bit of the number": (lambda f: flipped(f, NUMBER), (1, 0, 0, 1)),
    "a bit of the sender's tag": (lambda f: flipped(f, NUMBER + 7), (1, 0, 0, 1)),
    "a bit of the check word": (lambda f: flipped(f, NUMBER + 8), (1, 0, 0, 1)),
    "the offload flags": (lambda f: flipped(f, 0), (1, 0, 0, 1)),
    "the last byte missing": (lambda f: [*f[:5], f[5][:-1], *f[6:]], (1, 0, 0, 1)),
    "one byte too many": (lambda f: [*f[:5], f[5] + b"\0", *f[6:]], (1, 0, 0, 1)),
    "an empty buffer": (lambda f: [*f[:5], b"", *f[6:]], (1, 0, 0, 1)),
    "nothing of the kind": (lambda f: [*f[:5], bytes(76), *f[6:]], (1, 0, 0, 1)),
}


@FORMATS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_device_is_found_out(fault: str, ring: Feature) -> None:
    tamper, found = FAULTS[fault]
    with pair(features=ring) as p:
        p.go(2)
        assert p.faults == (0, 0, 0, 0)
        p.wire.tamper = tamper
        p.go(1)
        p.wire.tamper = lambda frames: frames
        p.go(2)    # a gap shows with the frame behind it
        assert p.faults == found


def test_a_flipped_bit_in_the_body_is_corrupt_in_whole_frames() -> None:
    with pair(content="whole", sizes=(200,)) as p:
        p.wire.tamper = lambda frames: flipped(frames, 211)
        p.go(1)
        assert p.faults == (1, 0, 0, 0)


def test_a_frame_sent_back_to_its_sender_is_corrupt() -> None:
    with pair() as p:
        echo = FakeWire(p.a, p.a, SIZE)
        p.load.step()
        echo.carry()
        p.load.step()
        assert p.a.received[2] == SIZE


@pytest.mark.parametrize("n_buffers", [0, 2, 65535])
def test_a_wrong_number_of_buffers_is_corrupt(n_buffers: int) -> None:
    for sizes in ((64,), (64, 9000)):
        with pair(features=Feature.VERSION_1 | Feature.MRG_RXBUF, sizes=sizes) as p:
            p.load.step()
            (_, buffers), *_ = p.wire.source.take()
            frame = b"".join(p.wire.source.ram.read(offset, n) for offset, n, _ in buffers)
            room, writable = p.wire.target.take()[0]
            p.wire.target.ram.write(writable[0][0], frame[:10] + n_buffers.to_bytes(2, "little") + frame[12:])
            p.wire.target.use(room, len(frame))
            p.wire.target.publish()
            p.load.step()
            assert p.b.received[2] == 1


@FORMATS
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("head", [SIZE, 3 << 8, 0xFFFFFFFF])
def test_a_used_entry_beyond_the_ring_stops_that_queue_and_harms_nothing(
    index: int, head: int, ring: Feature
) -> None:
    with pair(features=ring) as p:
        p.load.step()
        faulty = p.wire.target if index == 0 else p.wire.source
        faulty.use(head, 76)
        faulty.publish()
        p.load.step()
        assert (p.b if index == 0 else p.a).broken
        assert p.b.received[0] == 0


def test_a_used_entry_inside_a_chain_stops_that_queue() -> None:
    with pair(pieces=4) as p:
        p.load.step()
        p.wire.source.use(1, 0)
        p.wire.source.publish()
        p.load.step()
        assert p.a.broken


def test_more_used_entries_than_buffers_stop_that_queue() -> None:
    with pair() as p:
        p.load.step()
        for _ in range(SIZE + 1):
            p.wire.source.use(0, 0)
        p.wire.source.publish()
        p.load.step()
        assert p.a.broken


def test_a_packed_device_returns_no_more_than_it_holds() -> None:
    with pair(features=PACKED) as p:
        p.load.step()
        p.load.drain()
        for _ in range(2 * SIZE):
            p.wire.source.use(0, 0)
        p.wire.source.publish()
        for _ in range(4):
            p.load.step()
        assert p.a.unreturned == 0


@FORMATS
def test_a_device_that_wants_no_kick_gets_none(ring: Feature) -> None:
    with pair(features=ring, kick=True) as p:
        for side in (p.wire.source, p.wire.target):
            side.ask_for_kicks(False)
        p.go(3)
        assert p.a.kicks == p.b.kicks == 0
        p.wire.source.ask_for_kicks(True)
        p.go(3)
        assert p.a.kicks == 3
        assert os.eventfd_read(p.a.kick_fds[1]) == 3


@FORMATS
def test_with_event_idx_the_kick_comes_at_the_entry_asked_for(ring: Feature) -> None:
    with pair(features=ring | Feature.EVENT_IDX, kick=True) as p:
        p.wire.source.ask_for_kick_at(SIZE)       # beyond the first round, which makes 0..15 available
        p.wire.target.ask_for_kicks(False)
        if ring == Feature.VERSION_1:
            p.wire.target.ask_for_kick_at(0x8000)
        p.load.step()
        assert p.a.kicks == 0
        p.wire.carry()
        p.load.step()
        assert p.a.kicks == 1
        p.wire.carry()
        p.load.step()
        assert (p.a.kicks, p.b.kicks) == (1, 0)


@FORMATS
def test_a_polling_driver_asks_for_no_notification(ring: Feature) -> None:
    with pair(features=ring) as p:
        p.go(2)
        assert not p.wire.source.driver_wants_notifications
        assert not p.wire.target.driver_wants_notifications


def test_with_event_idx_the_available_rings_flags_stay_zero() -> None:
    with pair(features=Feature.VERSION_1 | Feature.EVENT_IDX) as p:
        p.go(2)
        assert p.wire.source.driver_wants_notifications    # section 2.7.7: used_event says it instead


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"queue_size": 48}, "power of two"),
        ({"queue_size": 65536}, "power of two"),
        ({"queue_size": 32769, "features": PACKED}, "a number from 2"),
        ({"sizes": (59,)}, "frame sizes"),
        ({"sizes": (70000,)}, "frame sizes"),
        ({"pieces": 0}, "pieces"),
        ({"pieces": 17}, "pieces"),
        ({"queue_size": 2, "pieces": 4}, "pieces"),
    ],
)
def test_impossible_guests_are_refused_with_the_reason(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text), pair(**wrong):
        pass


def test_closing_twice_is_closing_once() -> None:
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir()))
    with pair() as p:
        p.a.close()
        p.a.close()
    assert len(list(fds.iterdir())) == before
