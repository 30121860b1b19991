"""How many frames go through a real fwd, over its sockets, from one built-in guest to the other?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.measure import per_unit
from fastvhost.control.children import dying_with_us
from fastvhost.driver.guests import Guests, PairSettings

FRAMES = 200_000


@pytest.fixture
def sockets() -> Iterator[tuple[str, str]]:
    """The sockets of a fwd with two ports, on the first of our CPUs."""
    with tempfile.TemporaryDirectory(prefix="fvb-") as name:
        a, b, control = (str(Path(name) / s) for s in ("a.sock", "b.sock", "c.sock"))
        command = [sys.executable, "-m", "fastvhost", "fwd", "--port", a, "--port", b, "--control", control]
        command += ["--cores", str(min(os.sched_getaffinity(0)))]
        process = subprocess.Popen(dying_with_us(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield a, b
        finally:
            process.terminate()
            process.wait(5)


def pass_frames(guests: Guests, n: int) -> None:
    """Wait until n more frames were received."""
    end = guests.counters().frames + n
    while guests.counters().frames < end:
        time.sleep(0.0002)


@pytest.mark.parametrize("both_ways", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("size", [64, 1518])
def test_two_ports(benchmark: Any, sockets: tuple[str, str], size: int, both_ways: bool) -> None:
    core = max(os.sched_getaffinity(0))
    settings = PairSettings(sizes=(size,), both_ways=both_ways, core=core, kick=False)
    with Guests(*sockets, settings) as guests:
        per_unit(benchmark, FRAMES, "frame", pass_frames, guests, FRAMES)
        final = guests.stop()
    assert final.lost == final.corrupt == final.reordered == final.duplicated == 0
