"""What many ports cost: a fwd of 1024 with and without guests, and a busy pair beside idle guests.

Of fwd: seconds until it listens, resident memory, threads, and the share of a core that it takes while nothing happens.
Of the data plane: in turns, in one process, worker and guests on one CPU after each other; only the worker's time
counts. Idle guests have kicked once, and are notified by nobody.

usage: python -m bench.many_ports [--ports N] [--rounds N] [--only WORD] [--record]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.fwd import forwarder
from bench.guest_crowd import Crowd, device_of
from bench.record import write
from bench.rig import POLLED, USUAL_FEATURES, attach
from bench.switching import PREEMPTED_NS
from bench.turns import paired_ratios, summary
from fastvhost.control.control_client import ask
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings, PairSettings
from tests.probes.shares import regather, rounds

IDLE = GuestSettings(queue_size=16, huge=False)
BUSY = replace(POLLED, queue_size=256, content="none")
REST_SECONDS = 5.0
SETTLED_SECONDS = 40.0
"""Until each port of an idle guest has looked a few times why no frame comes, and does so seldom."""
LOOK_SECONDS = 10.0
FOREIGN = bytes(8 << 20)
"""To be read where everything else is to leave the L2 cache."""
QUIET_SECONDS = 0.4
"""Until lanes without frames count as quiet."""


@dataclass(frozen=True)
class Rig:
    """A worker, the guests that send, and all ports."""

    worker: Worker
    load: Load


@contextlib.contextmanager
def rig(busy: int, idle: int, *, learn: bool) -> Iterator[Rig]:
    """Pairs of guests that send to each other, and guests that do nothing."""
    door, n = Door(), busy + idle
    with contextlib.ExitStack() as closing:
        devices, ports = [], []
        for guest in range(n):
            settings = BUSY if guest < busy else replace(IDLE, content="none")
            pattern = "pairs" if guest < busy else "pair"
            device = device_of(settings, int(USUAL_FEATURES), pattern, guest, max(busy, 2))
            closing.callback(device.close)
            port = VirtioPort(f"p{guest}", door)
            closing.callback(port.close)
            attach(device, port, settings.queue_size, closing, kicks=settings.kick)
            devices.append(device)
            ports.append(port)
        worker = Worker(door)
        closing.callback(worker.close)
        table = ForwardingTable(ports=n)
        bridge = Bridge(tuple(ports), table) if learn else None
        for guest, port in enumerate(ports):
            egress = None if learn else ports[guest ^ 1]
            worker.add_wire(port, egress, hold=not learn, hold_timeout_ms=1000, bridge=bridge)
        regather(worker)
        yield Rig(worker, Load(*devices[:busy]))
        for port in ports:
            for index in (0, 1):
                port.stop_queue(index)
            port.set_memory(None)


def warm(made: Rig, seconds: float) -> None:
    """Until idle lanes are quiet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        made.load.step()
        rounds(made.worker, 1)


def take_turn(made: Rig, seconds: float, *, far: bool) -> float:
    """Millions of frames in a second of the worker's time. Rounds that waited for a CPU are left out."""
    end, busy, moved = time.monotonic() + seconds, 0, 0
    step, worker = made.load.step, made.worker
    while time.monotonic() < end:
        step()
        if far:
            FOREIGN.count(1)
        start = time.perf_counter_ns()
        n = rounds(worker, 1)
        took = time.perf_counter_ns() - start
        if took < PREEMPTED_NS:
            busy += took
            moved += n
    return moved * 1000 / busy if busy else 0.0


@dataclass(frozen=True)
class Row:
    """A ratio of rates: so many busy and idle guests, by those of the other.

    far: what guests wrote is in no cache of the worker's core before a round, as where guests run on other CPUs. Else
    a few guests' rings fit into its L2 cache and those of many do not, which is no property of the worker.
    """

    name: str
    goal: float
    these: tuple[int, int]
    those: tuple[int, int] = (2, 0)
    far: bool = False


ROWS = [
    Row("a busy pair beside 254 idle ports / alone", 0.95, (2, 254)),
    Row("a busy pair beside 1022 idle ports / alone", 0.90, (2, 1022)),
    Row("16 busy ports / 2", 1 / 1.5, (16, 0)),
    Row("64 busy ports / 2", 1 / 1.5, (64, 0)),
    Row("16 busy ports / 2, far guests", 1 / 1.5, (16, 0), far=True),
    Row("64 busy ports / 2, far guests", 1 / 1.5, (64, 0), far=True),
]


def measure(row: Row, n_rounds: int, learn: bool) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        rigs = [stack.enter_context(rig(*size, learn=learn)) for size in (row.these, row.those)]
        for one in rigs:
            warm(one, QUIET_SECONDS)
        turns: list[list[float]] = [[], []]
        for number in range(n_rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                warm(rigs[which], 0.05)
                turns[which].append(take_turn(rigs[which], 0.25, far=row.far))
    ratio = {key: round(value, 3) for key, value in paired_ratios(*turns).items()}
    return {
        "bench": f"{row.name}, {'learn' if learn else 'patch'}", "unit": "ratio of turns", **ratio,
        "mpps": [round(summary(each)["median"], 2) for each in turns], "rounds": n_rounds, "goal": round(row.goal, 3),
    }  # fmt: skip


# A fwd


def resident_mib(pid: int, kinds: tuple[str, ...] = ("RssAnon", "RssFile")) -> float:
    """Without what is shared with the guests."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(re.findall(rf"^{kind}:\s+(\d+) kB", status, re.M)[0]) for kind in kinds) / 1024


def cpu_seconds(pid: int) -> dict[str, float]:
    """Of each thread so far, by its kind."""
    seconds: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name = (task / "comm").read_text().strip()
            kind = "worker" if name.startswith("fv-worker") else "main" if task.name == str(pid) else "others"
            seconds[kind] = seconds.get(kind, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def idle_percent(pid: int) -> dict[str, float]:
    """Of a core, by kind of thread."""
    time.sleep(REST_SECONDS)
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(LOOK_SECONDS)
    passed = time.monotonic() - start
    return {kind: round(100 * (now - before[kind]) / passed, 3) for kind, now in cpu_seconds(pid).items()}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def of_a_fwd(ports: int, forward: str) -> Iterator[dict[str, object]]:
    """What it costs before guests come, and with one at each port."""
    with tempfile.TemporaryDirectory(prefix="fv-") as name:
        directory = Path(name)
        sockets = [str(directory / f"{number}.sock") for number in range(ports)]
        config, control = directory / "fwd.toml", str(directory / "control.sock")
        config.write_text("port = [" + ", ".join(f'"{path}"' for path in sockets) + f']\nforward = "{forward}"\n')
        start = time.monotonic()
        with forwarder(directory, [], "--config", str(config), "--forward", forward) as process:
            while not all(map(os.path.exists, sockets)):
                assert process.poll() is None, (directory / "fwd.log").read_text()
                time.sleep(0.01)
            listens = time.monotonic() - start
            answer = time.monotonic()
            ask(control, "stats")
            answer = time.monotonic() - answer
            said = {"bench": f"fwd of {ports} ports, {forward}", "listens_seconds": round(listens, 2)}
            yield said | _state(process.pid) | {"stats_seconds": round(answer, 3)}
            crowd = Crowd(sockets, PairSettings(queue_size=16, huge=False), "pair")
            try:
                start = time.monotonic()
                crowd.connect()
                took = round(time.monotonic() - start, 1)
                said = {"bench": f"the same with {ports} idle guests", "connects_seconds": took}
                time.sleep(SETTLED_SECONDS)
                yield said | _state(process.pid)
            finally:
                crowd.stop()


def _state(pid: int) -> dict[str, object]:
    keeper = children_of(pid)
    return {
        "rss_mib": round(resident_mib(pid), 1),
        "keeper_rss_mib": [round(resident_mib(child), 1) for child in keeper],
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "idle_percent": idle_percent(pid),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.many_ports", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ports", type=int, default=1024, help="of fwd; default %(default)s")
    parser.add_argument("--rounds", type=int, default=16, help="turns of each; default %(default)s")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose names have it; fwd is called fwd")
    parser.add_argument("--record", action="store_true", help="a line for each row, in bench/results")
    o = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: list[dict[str, object]] = []
    for forward in ("learn", "patch"):
        if o.only in f"fwd {forward}":
            for figure in of_a_fwd(o.ports, forward):
                figures.append(figure)
                print(figure, flush=True)
    for row in ROWS:
        for learn in (False, True):
            if o.only in f"{row.name} {'learn' if learn else 'patch'}":
                figures.append(f := measure(row, o.rounds, learn))
                print(f"{f['bench']:60}{f['median']:7.3f}  ({f['q1']}..{f['q3']})  Mpps {f['mpps']}", flush=True)
    if o.record:
        write("many-ports", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
