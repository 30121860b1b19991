"""What a switch costs beside a patch cable: in turns, in one process, worker and guests on one CPU after each other.

Only the worker's time counts. A round of the worker that took a millisecond waited for a CPU, and is left out with its
frames. Each row is the median of the ratios of turns that followed each other; the longest round is the median of the
turns' longest ones.

usage: python -m bench.switching [--rounds N] [--only WORD] [--record]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from bench.record import write
from bench.rig import POLLED
from bench.switch_rig import SwitchRig, switch_rig
from bench.turns import paired_ratios, summary
from fastvhost.control.mac_upkeep import MacUpkeep
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.driver.settings import GuestSettings
from tests.probes.mac_tables import Keys, destination

PREEMPTED_NS = 1_000_000
MANY = replace(POLLED, queue_size=8192)
"""Eight guests of so many slots have 65,536 addresses together, and send to as many."""
WARM_STEPS = 500
UPKEEP_SECONDS = 0.05

Make = Callable[[], AbstractContextManager[SwitchRig]]


@dataclass(frozen=True)
class Row:
    """One ratio of rates: frames delivered in a second of the worker's time."""

    name: str
    goal: float
    make: Make
    other: Make
    turn: float = 0.25
    """Seconds."""


def sized(size: int) -> GuestSettings:
    return replace(POLLED, sizes=(size,))


@contextlib.contextmanager
def full_table(*, kept_up: bool) -> Iterator[SwitchRig]:
    """Two guests that talk, at a switch whose table is full of a third port's addresses.

    kept_up: a thread does what the main thread of `fwd` does, and once a second flushes and learns all of those anew.
    """
    with switch_rig("pair", 3, settings=sized(64)) as rig, contextlib.ExitStack() as closing:
        rig.table.set_limits(2, max_macs=rig.table.addresses)
        chosen = random.Random(1)
        keys = Keys([destination(b"\x02" + chosen.randbytes(5) + bytes(6), 0) for _ in range(rig.table.addresses)])
        keys.learn_all(rig.table, 2, 1)
        if kept_up:
            ends = threading.Event()
            thread = threading.Thread(target=_keep_up, args=(rig.table, keys, ends))
            thread.start()
            closing.callback(thread.join)
            closing.callback(ends.set)
        yield rig


def _keep_up(table: ForwardingTable, keys: Keys, ends: threading.Event) -> None:
    upkeep, flushed = MacUpkeep(table, str), time.monotonic()
    while not ends.wait(UPKEEP_SECONDS):
        upkeep.look(now := time.monotonic())
        if now - flushed >= 1.0:
            flushed = now
            table.flush(port=2)
            keys.learn_all(table, 2, 1)


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
    Row(
        "learn, a full table that ages and is flushed / one at rest, two guests, 64 B",
        0.97,
        partial(full_table, kept_up=True),
        partial(full_table, kept_up=False),
        turn=1.0,
    ),
]


@dataclass(frozen=True)
class Turn:
    """What a turn came to."""

    mpps: float
    """Frames delivered in a second of the worker's time, in millions."""
    longest_us: float
    """Its longest round."""


def take_turn(rig: SwitchRig, seconds: float) -> Turn:
    """Step worker and guests for so long."""
    end, busy, counted, moved, longest = time.monotonic() + seconds, 0, 0, 0, 0
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
            longest = max(longest, took)
    # A frame that is flooded is delivered more often than it is moved.
    mpps = (rig.delivered() - before) * counted / moved * 1000 / busy if busy and moved else 0.0
    return Turn(mpps, longest / 1000)


def measure(row: Row, rounds: int) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        rigs = [stack.enter_context(make()) for make in (row.make, row.other)]
        for rig in rigs:
            for _ in range(WARM_STEPS):
                rig.load.step()
                rig.worker.step()
        turns: list[list[Turn]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                turns[which].append(take_turn(rigs[which], row.turn))
    rates = [[turn.mpps for turn in each] for each in turns]
    ratio = {key: round(value, 3) for key, value in paired_ratios(*rates).items()}
    return {
        "bench": row.name,
        "unit": "ratio of turns",
        **ratio,
        "mpps": [round(summary(each)["median"], 2) for each in rates],
        "longest_us": [round(summary([turn.longest_us for turn in each])["median"], 1) for each in turns],
        "rounds": rounds,
        "goal": row.goal,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.switching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=16, help="turns of each; default %(default)s")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose names have it")
    parser.add_argument("--record", action="store_true", help="a line for each row, in bench/results")
    o = parser.parse_args()
    figures = []
    for row in ROWS:
        if o.only in row.name:
            figures.append(f := measure(row, o.rounds))
            told = f"Mpps {f['mpps']}  longest round {f['longest_us']} us"
            print(f"{f['bench']:78}{f['median']:7.3f}  ({f['q1']}..{f['q3']})  {told}", flush=True)
    if o.record:
        write("switching", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
