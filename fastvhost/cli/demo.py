"""A demonstration: a real fwd as a process of its own, two built-in guests at its sockets, and rates each second.
Needs no VM, no root and no hugepages.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fastvhost.cli.own_fwd import cores, forwarder, temporary_directory
from fastvhost.cli.text import si
from fastvhost.control import control_client, units
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.stats import BITS

if TYPE_CHECKING:
    from fastvhost.driver.guests import Direction, GuestCounters, Guests

LATENCY_SECONDS = 1.0
# Bytes of a frame: from the shortest Ethernet frame to the longest one of the usual MTU.
SIZES = (60, 1514)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, and with which frames."""
    parser.add_argument("--seconds", default="10", metavar="TIME", help="how long; default 10")
    parser.add_argument("--size", default="64", metavar="BYTES", help=f"bytes of a frame, {SIZES[0]} to {SIZES[1]}")


def run(arguments: argparse.Namespace) -> int:
    """0 when every frame arrived whole, once and in order."""
    seconds = units.duration("seconds", arguments.seconds, 0.5, 86400)
    if not arguments.size.isdecimal() or not SIZES[0] <= int(arguments.size) <= SIZES[1]:
        raise UsageError(f"--size {arguments.size}: a frame has {SIZES[0]} to {SIZES[1]} bytes here")
    from fastvhost.driver.guests import Guests, GuestsError, PairSettings

    fwd_core, guests_core = cores()
    with temporary_directory("fastvhost-demo-") as directory:
        a, b = str(directory / "a.sock"), str(directory / "b.sock")
        settings = PairSettings(sizes=(int(arguments.size),), core=guests_core)
        try:
            with forwarder(directory, fwd_core), Guests(a, b, settings) as guests:
                _watch(guests, directory / "control.sock", seconds)
                loaded = guests.stop_load()
                latency = guests.latency(LATENCY_SECONDS)
        except GuestsError as error:
            raise RuntimeFailure(str(error)) from error
    print(f"\n{loaded.frames} frames of {arguments.size} bytes, {_faults(loaded)}")
    print(f"average {_rate(loaded.frames / seconds, loaded.bytes / seconds)}, both directions together")
    print(f"one frame in flight: {latency.p50:.2f} us one way (median), {latency.p99:.2f} us (99th percentile)")
    if not loaded.frames or loaded.corrupt or loaded.reordered or loaded.duplicated or loaded.lost:
        raise RuntimeFailure(
            "not every frame arrived whole, once and in order; please report this with the lines above"
        )
    return 0


def _watch(guests: Guests, control: Path, seconds: float) -> None:
    """Print a line per second: what the guests received, what the forwarder dropped."""
    start = before_at = time.monotonic()
    before = guests.counters()
    while before_at < start + seconds:
        time.sleep(min(1.0, start + seconds - before_at))
        now_at, now = time.monotonic(), guests.counters()
        took = now_at - before_at
        ways = [
            f"{label} {_rate_between(new, old, took)}"
            for label, new, old in (("a>b", now.a_to_b, before.a_to_b), ("b>a", now.b_to_a, before.b_to_a))
        ]
        stats = control_client.ask(str(control), "stats")
        dropped = sum(
            sum(port[side].values()) for port in stats["ports"].values() for side in ("rx_dropped", "tx_dropped")
        )
        print(f"{now_at - start:4.0f} s  {'   '.join(ways)}   dropped {dropped}", flush=True)
        before_at, before = now_at, now


def _rate_between(now: Direction, before: Direction, seconds: float) -> str:
    return _rate((now.frames - before.frames) / seconds, (now.bytes - before.bytes) / seconds)


def _rate(frames: float, octets: float) -> str:
    return f"{si(frames, 'pps')} {si(octets * BITS, 'bit/s')}"


def _faults(counters: GuestCounters) -> str:
    return (
        f"{counters.lost} lost, {counters.corrupt} corrupt, {counters.reordered} out of order, "
        f"{counters.duplicated} twice"
    )
