"""What a switch costs beside a patch cable: in turns, in one process, worker and guests on one CPU after each other.

Only the worker's time counts. A round of the worker that took a millisecond waited for a CPU, and is left out with its
frames. Each row is the median of the ratios of turns that followed each other.

usage: python -m bench.switching [--rounds N] [--turn SECONDS] [--only WORD] [--record]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from bench.record import write
from bench.rig import POLLED
from bench.switch_rig import SwitchRig, switch_rig
from bench.turns import paired_ratios, summary
from fastvhost.driver.settings import GuestSettings

PREEMPTED_NS = 1_000_000
MANY = replace(POLLED, queue_size=8192)
"""Eight guests of so many slots have 65,536 addresses together, and send to as many."""
WARM_STEPS = 500

Make = Callable[[], AbstractContextManager[SwitchRig]]


@dataclass(frozen=True)
class Row:
    """One ratio of rates: frames delivered in a second of the worker's time."""

    name: str
    goal: float
    make: Make
    other: Make


def sized(size: int) -> GuestSettings:
    return replace(POLLED, sizes=(size,))


ROWS = [
    *(
        Row(
            f"learn / patch, two guests, {size} B",
            0.9,
            partial(switch_rig, "mesh", 2, settings=sized(size)),
            partial(switch_rig, "mesh", 2, settings=sized(size), learn=False),
        )
        for size in (64, 1518)
    ),
    Row(
        "learn / patch, 8 guests, 65536 addresses, random destinations, 64 B",
        0.5,
        partial(switch_rig, "many", 8, settings=MANY, max_macs=8192),
        partial(switch_rig, "many", 8, settings=MANY, learn=False),
    ),
    Row(
        "learn / patch, mesh of 4 guests, 64 B",
        0.0,
        partial(switch_rig, "mesh", 4),
        partial(switch_rig, "mesh", 4, learn=False),
    ),
    Row(
        "flood to 8 guests, copies / frames between two guests, 64 B",
        0.8,
        partial(switch_rig, "flood", 9),
        partial(switch_rig, "mesh", 2),
    ),
]


def rate(rig: SwitchRig, seconds: float) -> float:
    """Frames delivered in a second of the worker's time, in millions."""
    end, busy, counted, moved = time.monotonic() + seconds, 0, 0, 0
    step, load, before = rig.worker.step, rig.load.step, rig.delivered()
    while time.monotonic() < end:
        load()
        start = time.perf_counter_ns()
        n = step()
        took = time.perf_counter_ns() - start
        moved += n
        if took < PREEMPTED_NS:
            busy += took
            counted += n
    # A frame that is flooded is delivered more often than it is moved.
    return (rig.delivered() - before) * counted / moved * 1000 / busy if busy and moved else 0.0


def measure(row: Row, rounds: int, seconds: float) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        rigs = [stack.enter_context(make()) for make in (row.make, row.other)]
        for rig in rigs:
            for _ in range(WARM_STEPS):
                rig.load.step()
                rig.worker.step()
        rates: list[list[float]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                rates[which].append(rate(rigs[which], seconds))
    ratio = {key: round(value, 3) for key, value in paired_ratios(*rates).items()}
    medians = [round(summary(each)["median"], 2) for each in rates]
    return {"bench": row.name, "unit": "ratio of turns", **ratio, "mpps": medians, "rounds": rounds, "goal": row.goal}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.switching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=16, help="turns of each; default %(default)s")
    parser.add_argument("--turn", type=float, default=0.25, metavar="SECONDS", help="default %(default)s")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose names have it")
    parser.add_argument("--record", action="store_true", help="a line for each row, in bench/results")
    o = parser.parse_args()
    figures = []
    for row in ROWS:
        if o.only in row.name:
            figures.append(f := measure(row, o.rounds, o.turn))
            print(f"{f['bench']:72}{f['median']:7.3f}  ({f['q1']}..{f['q3']})  Mpps {f['mpps']}", flush=True)
    if o.record:
        write("switching", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
