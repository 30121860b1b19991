"""No wake-up is ever lost: ten million ping-pongs between a driver and a device that both sleep when they may.

The question each of them answers millions of times, while the other changes what it is answered from: must I notify?
What is random: how many chains go at once and come back at once, whether a side looks or sleeps, which coming entry it
asks to be told of (used_event, off_wrap), whether the wish is taken back or left behind, and when it does all that.
Indices and wrap counters run over again and again: the rings are small, and 16 bits are few.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.driver.device import GuestDevice
from tests.probes.ping_pong import PingPong
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, RING_F_EVENT_IDX

EVENT_IDX = F_VERSION_1 | RING_F_EVENT_IDX
PACKED = F_VERSION_1 | F_RING_PACKED
TRANSMITQ = 1


@contextlib.contextmanager
def ping_pong(features: int, size: int, **options: object) -> Iterator[PingPong]:
    device = GuestDevice(features=features, queue_size=size, sizes=(64,), tag=1, peer_tag=2, huge=False)
    port = VirtioPort("a", Door())
    ram = device.ram
    mapping = Mapping(ram.fd, ram.guest_addr, ram.bytes, ram.user_addr, 0)
    port.set_features(features)
    port.set_memory(GuestMemory([mapping]))
    desc, avail, used = device.ring_addresses(TRANSMITQ)
    port.start_queue(
        TRANSMITQ, size=size, desc_user_addr=desc, avail_user_addr=avail, used_user_addr=used, base=device.base,
        call_fd=-1, enabled=True, kicked=True,
    )  # fmt: skip
    try:
        yield PingPong(device, port, seed=20261123, **options)  # type: ignore[arg-type]
    finally:
        port.close()
        mapping.close()
        device.close()


def play(game: PingPong, rounds: int, seconds: float) -> None:
    """Both ends until so many rounds are over, or the time is."""
    status: list[int] = []
    serving = threading.Thread(target=lambda: status.append(game.serve()))
    driving = threading.Thread(target=game.drive, args=(rounds,))
    serving.start()
    driving.start()
    driving.join(seconds)
    game.stop()
    driving.join(10)
    serving.join(10)
    assert status == [0], "the ring broke"


@pytest.mark.parametrize(
    ("features", "size", "rounds"),
    [
        (EVENT_IDX, 8, 4_000_000),
        (PACKED | RING_F_EVENT_IDX, 7, 4_000_000),
        (F_VERSION_1, 8, 1_000_000),
        (PACKED, 5, 1_000_000),
    ],
    ids=["split, event idx", "packed, event idx", "split, flags", "packed, flags"],
)
def test_ten_million_ping_pongs_lose_no_wake_up(features: int, size: int, rounds: int) -> None:
    with ping_pong(features, size) as game:
        play(game, rounds, 240)
        assert (game.driver_stalls, game.device_stalls) == (0, 0)
        assert game.rounds == rounds
        # The decisions were made while somebody slept on them, not once all was over.
        assert game.driver_sleeps > rounds // 10
        assert game.device_sleeps > rounds // 10


@pytest.mark.parametrize(
    ("missing", "features"),
    [
        ("publish_fence", EVENT_IDX),
        ("publish_fence", PACKED | RING_F_EVENT_IDX),
        ("publish_fence", F_VERSION_1),
        ("publish_fence", PACKED),
        # With EVENT_IDX on a split ring this one is missed, too, but only after seconds.
        ("sleep_fence", PACKED | RING_F_EVENT_IDX),
        ("sleep_fence", F_VERSION_1),
        ("sleep_fence", PACKED),
    ],
)
def test_without_one_of_the_fences_a_wake_up_is_lost_and_found_missing(missing: str, features: int) -> None:
    with ping_pong(features, 8, stall_seconds=0.05, **{missing: False}) as game:
        watch = threading.Event()
        play_until(game, watch, 60)
        assert game.driver_stalls + game.device_stalls > 0


def play_until(game: PingPong, watch: threading.Event, seconds: float) -> None:
    """Until a stall was seen."""

    def look() -> None:
        for _ in range(int(seconds / 0.05)):
            if watch.wait(0.05) or game.driver_stalls or game.device_stalls:
                break
        game.stop()

    looking = threading.Thread(target=look)
    looking.start()
    play(game, 1 << 62, seconds)
    watch.set()
    looking.join()
