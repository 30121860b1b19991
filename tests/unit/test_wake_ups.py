"""No wake-up is ever lost: a million ping-pongs between a driver and a device that both sleep when they may.

The question each of them answers millions of times, while the other changes what it is answered from: must I notify?
What is random: how many chains go at once and come back at once, whether a side looks or sleeps, which coming entry it
asks to be told of (used_event, off_wrap), whether the wish is taken back or left behind, and when it does all that.
Indices and wrap counters run over again and again: the rings are small, and 16 bits are few.
With --long it is ten million; `python -m bench.wake_ups` does as many for each format with EVENT_IDX.
"""

from __future__ import annotations

import threading

import pytest

from bench.wake_ups import EVENT_IDX, ping_pong, play
from fastvhost.driver.frontend import Feature
from tests.probes.ping_pong import PingPong

FLAGS = Feature.VERSION_1
LONGER = 10
"""With --long, this many times the rounds."""
FORMATS = {
    "split, event idx": EVENT_IDX,
    "packed, event idx": EVENT_IDX | Feature.RING_PACKED,
    "split, flags": FLAGS,
    "packed, flags": FLAGS | Feature.RING_PACKED,
}


@pytest.mark.parametrize(
    ("name", "size", "rounds", "clogged"),
    [
        ("split, event idx", 8, 350_000, False),
        ("split, event idx", 8, 50_000, True),
        ("packed, event idx", 7, 350_000, False),
        ("packed, event idx", 7, 50_000, True),
        ("split, flags", 8, 100_000, False),
        ("packed, flags", 5, 100_000, False),
    ],
)
def test_a_million_ping_pongs_lose_no_wake_up(
    name: str, size: int, rounds: int, clogged: bool, pytestconfig: pytest.Config
) -> None:
    rounds *= LONGER if pytestconfig.getoption("long") else 1
    with ping_pong(FORMATS[name], size, clogged=clogged) as game:
        play_until_a_stall(game, 240, rounds)
        assert (game.driver_stalls, game.device_stalls) == (0, 0)
        assert game.rounds == rounds
        # The decisions were made while the other side slept.
        assert game.driver_sleeps > rounds // 10
        assert game.device_sleeps > rounds // 10


@pytest.mark.parametrize("missing", ["publish_fence", "sleep_fence"])
@pytest.mark.parametrize("name", FORMATS)
def test_without_one_of_the_fences_a_wake_up_is_lost_and_found_missing(name: str, missing: str) -> None:
    # Clogged: the window is a few hundred nanoseconds then, on any machine; without it some find it after seconds only.
    with ping_pong(FORMATS[name], 8, stall_seconds=0.25, clogged=True, **{missing: False}) as game:
        play_until_a_stall(game, 60)
        assert game.driver_stalls + game.device_stalls > 0


def play_until_a_stall(game: PingPong, seconds: float, rounds: int = 1 << 62) -> None:
    done = threading.Event()

    def look() -> None:
        for _ in range(int(seconds / 0.05)):
            if done.wait(0.05) or game.driver_stalls or game.device_stalls:
                break
        game.stop()

    looking = threading.Thread(target=look)
    looking.start()
    assert play(game, rounds, seconds) == 0, "the ring broke"
    done.set()
    looking.join()
