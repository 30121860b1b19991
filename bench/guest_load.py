"""The built-in guests as a process of its own, which reports to its parent: one JSON object per line on stdout.

usage: python -m bench.guest_load A.sock B.sock [--size 64|imix] [--core N] [--listen] [--latency] ...
       python -m bench.guest_load A.sock B.sock C.sock ... --pattern mesh|hub|pair|many|flood ...
Runs until SIGTERM or until stdin closes; then drains and prints {"final": ...}.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from dataclasses import fields

from bench.guest_crowd import PATTERNS, Crowd
from fastvhost.driver.guests import IMIX, Guests, GuestsError, PairSettings
from fastvhost.driver.offload import ASKS

INTERVAL_SECONDS = 0.05
# OVS needs some time between its two connections, and between accepting a ring and forwarding from it.
CONNECT_SECONDS = 100
FIRST_FRAME_SECONDS = 20.0


def frame_bytes(text: str) -> tuple[int, ...]:
    return IMIX if text == "imix" else (int(text),)


def arguments() -> argparse.Namespace:
    """The options. One that sets a field of PairSettings has the name of that field."""
    parser = argparse.ArgumentParser(prog="python -m bench.guest_load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sockets", nargs="+", metavar="SOCKET")
    parser.add_argument("--pattern", choices=PATTERNS, help="who sends to whom at a switch (bench/guest_crowd.py)")
    parser.add_argument("--size", dest="sizes", type=frame_bytes, default=(64,), metavar="BYTES|imix")
    parser.add_argument("--core", type=int)
    parser.add_argument("--queue-size", type=int, default=1024)
    parser.add_argument("--pieces", type=int, default=1)
    parser.add_argument("--content", choices=("none", "numbers", "whole"), default="numbers")
    parser.add_argument("--asks", choices=ASKS, default="nothing", help="what the guests leave to their cards")
    parser.add_argument("--gap-us", type=float, default=5.0, help="of silence between two frames; with --latency")
    parser.add_argument("--queues", type=int, default=1, help="queue pairs of each guest")
    for flag in ("listen", "latency", "indirect", "packed", "in-order", "kick", "sleeps"):
        parser.add_argument(f"--{flag}", action="store_true")
    for flag, setting in (("one-way", "both_ways"), ("not-mergeable", "mergeable"), ("no-event-idx", "event_idx")):
        parser.add_argument(f"--{flag}", dest=setting, action="store_false")
    return parser.parse_args()


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def told_to_stop(seconds: float) -> bool:
    """Wait for this time at most. True: stdin has closed."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def report_rates(guests: Guests | Crowd) -> None:
    """Frames and bytes received, interval by interval."""
    guests.start()
    last, seen = time.monotonic(), guests.counters()
    while not told_to_stop(INTERVAL_SECONDS) and guests.connected:
        now, counters = time.monotonic(), guests.counters()
        say(t=now, d=now - last, frames=counters.frames - seen.frames, bytes=counters.bytes - seen.bytes)
        last, seen = now, counters


def report_latency(guests: Guests, gap_us: float) -> None:
    """Percentiles, interval by interval. An interval is long enough for some frames."""
    interval = max(INTERVAL_SECONDS, 20 * gap_us / 1e6)
    start = last = time.monotonic()
    while not told_to_stop(0) and guests.connected:
        try:
            latency = guests.latency(interval, gap_us)
        except GuestsError:
            if time.monotonic() > start + FIRST_FRAME_SECONDS:
                raise
            continue
        now = time.monotonic()
        say(t=now, d=now - last, **latency._asdict())
        last = now


def flood(crowd: Crowd) -> int:
    """The guests of a switch. What they lost is not known: frames may reach several."""
    crowd.connect()
    try:
        report_rates(crowd)
        alive = crowd.connected
    finally:
        crowd.stop()
    return 0 if alive else 1


def main() -> int:
    o = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if o.core is not None:
        os.sched_setaffinity(0, {o.core})  # this thread, too: nothing else runs on the back-end's core
    try:
        given = {field.name: getattr(o, field.name) for field in fields(PairSettings) if field.name in o}
        settings = PairSettings(timeout=CONNECT_SECONDS, **given)
        if o.pattern:
            return flood(Crowd(o.sockets, settings, o.pattern))
        a, b = o.sockets
        guests = Guests(a, b, settings)
        say(listening=o.listen)
        guests.connect()
        say(features=[int(f) for f in guests.features])
        try:
            if o.latency:
                report_latency(guests, o.gap_us)
            else:
                report_rates(guests)
            alive = guests.connected
        finally:
            final = guests.stop()
            say(final={"a_to_b": final.a_to_b._asdict(), "b_to_a": final.b_to_a._asdict()})
    except GuestsError as error:
        print(f"guest load: {error}", file=sys.stderr)
        return 1
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
