"""fwd is killed or ended and started again under a flood of numbered frames, and each frame is accounted for.

The built-in guests send what QEMU sends after such an end: for a split ring its used index, for a packed ring no
position. So fwd must find the position of packed rings itself.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bench.guests.fwd import Fwd
from bench.guests.waits import wait_until
from fastvhost.driver import guests as built_in
from fastvhost.driver.guests import IMIX, Guests, PairSettings

RESTARTS, RESTARTS_WHEN_LONG = 3, 20
BURST = 64
BACK_WITHIN, BACK_WITHIN_WHEN_LONG = 60.0, 5.0
"""Seconds. In a normal run the bound allows for a busy machine."""
RINGS: dict[str, dict[str, Any]] = {
    "split": {},
    "packed": {"packed": True},
    "split, in order": {"in_order": True},
    "packed, in order": {"packed": True, "in_order": True},
    "split, two queue pairs": {"queues": 2},
    "packed, two queue pairs": {"packed": True, "queues": 2},
    "packed, three descriptors a frame": {"packed": True, "pieces": 3},
}
USUAL = ("split", "packed")


@pytest.mark.parametrize(
    "rings", [rings if rings in USUAL else pytest.param(rings, marks=pytest.mark.long) for rings in RINGS]
)
def test_a_flood_over_restarts_loses_no_frame_and_doubles_one_burst_of_each_at_most(
    place: Path, rings: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty restarts with --long, by SIGKILL and by SIGTERM in turn."""
    long = pytestconfig.getoption("--long")
    restarts, max_wait = (RESTARTS_WHEN_LONG, BACK_WITHIN_WHEN_LONG) if long else (RESTARTS, BACK_WITHIN)
    options = RINGS[rings]
    pairs = options.get("queues", 1)
    sockets = [place / f"{end}.sock" for end in "ab"]
    ports = [f"{socket},queues={pairs}" for socket in sockets]
    # A fwd that waits for a CPU must not drop frames.
    monkeypatch.setattr(built_in, "DRAIN_SECONDS", 2 * BACK_WITHIN)
    monkeypatch.setattr(built_in, "QUIET_SECONDS", BACK_WITHIN)
    moments = random.Random(7)
    started, away, doubled = [], [], [0]
    fwd = Fwd(place, ports)
    settings = PairSettings(content="whole", sizes=IMIX, sleeps=True, timeout=60, **options)
    guests = Guests(str(sockets[0]), str(sockets[1]), settings)
    try:
        guests.start()
        for n in range(restarts):
            wait_for_traffic(guests, 1000, max_wait)
            doubled.append(guests.counters().duplicated)
            time.sleep(moments.uniform(0, 0.02))
            fwd.stop() if n % 2 else fwd.kill()
            begin = time.monotonic()
            fwd = Fwd(place, ports)
            listens = time.monotonic()
            guests.reconnect()
            wait_for_traffic(guests, 1, max_wait)
            started.append(listens - begin)
            away.append(time.monotonic() - listens)
            if options.get("packed"):
                fwd.wait_log("port b: rings .* running, size 1024, from where the fwd before left them", 30)
        wait_for_traffic(guests, 1000, max_wait)
        ended = guests.stop()
    finally:
        guests.stop()
        fwd.stop()
    doubled.append(ended.duplicated)
    print(
        f"{rings}: {restarts} restarts, fwd listened after {median(started):.2f} s ({max(started):.2f} s at most), "
        f"frames came both ways {median(away):.2f} s ({max(away):.2f} s at most) later; {ended}"
    )
    assert not long or max(away) <= max_wait
    assert (ended.lost, ended.corrupt, ended.reordered) == (0, 0, 0)
    assert all(after - before <= BURST for before, after in itertools.pairwise(doubled)), doubled
    assert fwd.warnings() == []


def wait_for_traffic(guests: Guests, frames: int, seconds: float) -> None:
    """Wait until `frames` more frames have arrived at each guest."""
    before = guests.counters()

    def moved() -> bool:
        now = guests.counters()
        return all(n.frames >= b.frames + frames for n, b in zip(now, before, strict=True))

    wait_until(f"{frames} frames arrive both ways", seconds, moved)
