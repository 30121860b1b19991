"""What guests of a switch get beside demanding neighbours: a slow receiver, a flood of long frames, another worker.

In one process. Worker and guests take turns on one CPU, and where there are two workers, each with its guests on a CPU
of its own. Each row is the median of turns, or of the ratios of turns that followed each other.

usage: python -m bench.neighbours [--rounds N] [--only WORD] [--record]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.guest_crowd import mac, starts_of_frames
from bench.record import write
from bench.rig import POLLED, USUAL_FEATURES, attach
from bench.switching import PREEMPTED_NS
from bench.turns import paired_ratios, summary
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings
from tests.probes.shares import regather, rounds, take_turns

SENDS = replace(POLLED, content="none")
SLOW = replace(SENDS, queue_size=4)
SLOW_SECONDS = 0.004
"""In which a slow guest takes what its four buffers have: 1000 frames a second."""
LONE = replace(SENDS, queue_size=2, pieces=2)
"""A frame takes two descriptors, so one is in flight."""
LONG = replace(SENDS, sizes=(9000,), queue_size=256)
HOLD_MS = 100
TURN_SECONDS = 0.5
TURNS = 32
"""Of guests and worker, one behind the other."""
WARM_SECONDS = 0.3


@dataclass(frozen=True)
class Guest:
    """Its settings, to whom it sends in turn, and whose lanes it is among: the worker's number."""

    settings: GuestSettings
    to: Sequence[int] = ()
    worker: int = 0


@dataclass(frozen=True)
class Scene:
    """By number of the guest or worker."""

    devices: list[GuestDevice]
    ports: list[VirtioPort]
    workers: list[Worker]

    def load(self, *guests: int) -> Load:
        return Load(*(self.devices[guest] for guest in guests))


@contextlib.contextmanager
def scene(*guests: Guest, learn: bool = True) -> Iterator[Scene]:
    """Guests at a switch that knows all their addresses; learn=False: wires 0-1, 2-3, ..."""
    door = Door()
    with contextlib.ExitStack() as closing:
        made = Scene([], [], [Worker(door, f"worker{n}") for n in range(1 + max(guest.worker for guest in guests))])
        for number, guest in enumerate(guests):
            peer = guest.to[0] if guest.to else number ^ 1
            device = GuestDevice(
                guest.settings, features=int(USUAL_FEATURES), tag=number + 1, peer_tag=peer + 1, sends=bool(guest.to)
            )
            closing.callback(device.close)
            for slot, at in enumerate(starts_of_frames(device, mac(number)) if guest.to else ()):
                device.ram.write(at, mac(guest.to[slot % len(guest.to)]))
            port = VirtioPort(f"p{number}", door)
            closing.callback(port.close)
            attach(device, port, guest.settings.queue_size, closing)
            made.devices.append(device)
            made.ports.append(port)
        table = ForwardingTable(ports=len(guests))
        bridge = Bridge(tuple(made.ports), table) if learn else None
        for number, guest in enumerate(guests):
            table.add(mac(number).hex(":"), number)
            made.workers[guest.worker].add_wire(
                made.ports[number], None if learn else made.ports[number ^ 1],
                hold=True, hold_timeout_ms=HOLD_MS, bridge=bridge,
            )  # fmt: skip
        for worker in made.workers:
            regather(worker)
        yield made
        for port in made.ports:
            for index in (0, 1):
                port.stop_queue(index)
            port.set_memory(None)
        for worker in made.workers:
            worker.close()


# A fast receiver beside a slow one


class Fan:
    """A guest that sends to two others in turn, of which the second may be slow."""

    def __init__(self, made: Scene, slow: bool) -> None:
        self._made = made
        self._load, self._slow = made.load(0, 1, *(() if slow else (2,))), made.load(2) if slow else None
        self._next = time.monotonic()
        self.turn(WARM_SECONDS)

    def turn(self, seconds: float) -> float:
        """Millions of frames that the first receiver gets in a second."""
        before, start = self._made.ports[1].counters().tx_frames, time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            if self._slow and now >= self._next:
                self._slow.step()
                self._next = now + SLOW_SECONDS
            self._load.step()
            rounds(self._made.workers[0], 1)
        return (self._made.ports[1].counters().tx_frames - before) / (now - start) / 1e6


def beside_a_slow_one(n_rounds: int) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        fans = [
            Fan(stack.enter_context(scene(Guest(SENDS, (1, 2)), Guest(SENDS), Guest(other))), slow)
            for other, slow in ((SLOW, True), (SENDS, False))
        ]
        turns: list[list[float]] = [[], []]
        for number in range(n_rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                turns[which].append(fans[which].turn(TURN_SECONDS))
        taken = fans[0]._made.ports[2].counters().tx_frames
    return ratio_of(turns) | {"slow_one_took": taken}


# One frame in flight beside a flood


def lone_frames(made: Scene, flood: Load, lone: Load, seconds: float) -> list[int]:
    """Nanoseconds of the worker's from when a frame was offered to when it was delivered. Nobody else's time counts."""
    worker, port, took, all_took = made.workers[0], made.ports[1], 0, list[int]()
    delivered, whole = port.counters().tx_frames, False
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        flood.step()
        start = time.perf_counter_ns()
        rounds(worker, 1)
        spent = time.perf_counter_ns() - start
        took, whole = took + spent, whole and spent < PREEMPTED_NS
        if (now := port.counters().tx_frames) != delivered:
            if whole:
                all_took.append(took)
            delivered, took, whole = now, 0, True
            lone.step()    # takes it, and offers the next one
            lone.step()
    return all_took


def beside_a_flood(n_rounds: int) -> dict[str, object]:
    p99s, p50s, longest, n = list[float](), list[float](), list[float](), 0
    guests = Guest(LONE, (1,)), Guest(SENDS), Guest(LONG, (3,)), Guest(LONG)
    with scene(*guests) as made:
        flood, lone = made.load(2, 3), made.load(0, 1)
        lone.step()
        for _ in range(n_rounds):
            took = sorted(lone_frames(made, flood, lone, TURN_SECONDS))
            p50s.append(took[len(took) // 2] / 1000)
            p99s.append(took[len(took) * 99 // 100] / 1000)
            longest.append(took[-1] / 1000)
            n += len(took)
    figure = {key: round(value, 1) for key, value in summary(p99s).items()}
    more = {"p50_us": round(summary(p50s)["median"], 1), "longest_us": round(max(longest), 1), "frames": n}
    return {"unit": "us, p99 of a turn"} | figure | more


# Two workers


def side_by_side(learn: bool, n_rounds: int) -> dict[str, object]:
    """Each worker's rate beside the other one, by its rate alone: the lower one of both."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    guests = [Guest(SENDS, (number ^ 1,), number // 2) for number in range(4)]
    with scene(*guests, learn=learn) as made:
        loads = made.load(0, 1), made.load(2, 3)

        def run(which: int, seconds: float, rates: list[float]) -> None:
            os.sched_setaffinity(0, {cores[which]})
            load, worker, moved, busy = loads[which], made.workers[which], 0, 0.0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                before = worker.busy_seconds
                n = take_turns(worker, load, TURNS)    # without the GIL, for which both threads would wait
                took = worker.busy_seconds - before
                if took < PREEMPTED_NS / 1e9:
                    moved, busy = moved + n, busy + took
            rates[which] = moved / busy / 1e6

        def turn(*which: int) -> list[float]:
            rates = [0.0, 0.0]
            threads = [threading.Thread(target=run, args=(each, TURN_SECONDS, rates)) for each in which]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return rates

        turn(0, 1)
        together: list[list[float]] = [[], []]
        alone: list[list[float]] = [[], []]
        for _ in range(n_rounds):
            both = turn(0, 1)
            for which in (0, 1):
                together[which].append(both[which])
                alone[which].append(turn(which)[which])
    return min((ratio_of([together[which], alone[which]]) for which in (0, 1)), key=lambda one: str(one["median"]))


# Rows


def ratio_of(turns: list[list[float]]) -> dict[str, object]:
    ratio = {key: round(value, 3) for key, value in paired_ratios(*turns).items()}
    return {"unit": "ratio of turns"} | ratio | {"mpps": [round(summary(each)["median"], 2) for each in turns]}


ROWS: dict[str, tuple[str, Callable[[int], dict[str, object]]]] = {
    "a fast receiver beside one of 1000 frames a second / beside a fast one": (">= 0.90", beside_a_slow_one),
    "one frame in flight beside a flood of 9000 B on the same worker": ("< 200", beside_a_flood),
    "two workers, two pairs, a switch: together / alone": (">= 0.9", lambda n: side_by_side(True, n)),
    "two workers, two pairs, wires: together / alone": (">= 0.9", lambda n: side_by_side(False, n)),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.neighbours", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=16, help="turns of each; default %(default)s")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose names have it")
    parser.add_argument("--record", action="store_true", help="a line for each row, in bench/results")
    o = parser.parse_args()
    figures = []
    for name, (goal, measure) in ROWS.items():
        if o.only in name:
            figures.append({"bench": name} | measure(o.rounds) | {"rounds": o.rounds, "goal": goal})
            print(figures[-1], flush=True)
    if o.record:
        write("neighbours", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
