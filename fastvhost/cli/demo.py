"""The main job on an embedded default: a real fwd as a process of its own, two built-in guests at its sockets, and what
goes through, second by second. Needs no VM, no root and no hugepages.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvhost.cli.text import si
from fastvhost.control import control_client, units
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.stats import BITS

if TYPE_CHECKING:
    from fastvhost.driver.guests import Counters, Direction, Guests

START_SECONDS = 5.0
STOP_SECONDS = 5.0
LATENCY_SECONDS = 1.0
# What a guest sends to a neighbour: from the shortest Ethernet frame to the longest one of the usual MTU.
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
    from fastvhost.driver.guests import Guests, GuestsError

    fwd_core, guests_core = _cores()
    with tempfile.TemporaryDirectory(prefix="fastvhost-demo-") as name:
        directory = Path(name)
        a, b = str(directory / "a.sock"), str(directory / "b.sock")
        try:
            with _forwarder(directory, fwd_core), Guests(a, b, size=int(arguments.size), core=guests_core) as guests:
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


def _cores() -> tuple[int | None, int | None]:
    """A core for the worker and one for both guests, where there are two; else the kernel shares what there is."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[-1], cores[-2]) if len(cores) > 1 else (None, None)


@contextmanager
def _forwarder(directory: Path, core: int | None) -> Iterator[None]:
    """A real fwd, from its first log line until it left with exit code 0."""
    command = [sys.executable, "-m", "fastvhost", "fwd", "--port", "a.sock", "--port", "b.sock"]
    command += ["--control", "control.sock"] + ([] if core is None else ["--cores", str(core)])
    print("$ " + " ".join(["fastvhost", *command[3:]]), flush=True)
    # Its last counters go to stdout like ours: they are a part of the demonstration.
    process = subprocess.Popen(command, cwd=directory, env=_environment())
    try:
        _await_sockets(process, [directory / name for name in ("a.sock", "b.sock", "control.sock")])
        yield
    finally:
        code = _end(process)
    if code:
        raise RuntimeFailure(f"fwd left with exit code {code}; see its log above")


def _end(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, then SIGKILL. The exit code."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _environment() -> dict[str, str]:
    """The child runs this very copy, from whatever directory it starts in."""
    here = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def _await_sockets(process: subprocess.Popen[bytes], sockets: list[Path]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not all(path.exists() for path in sockets):
        if process.poll() is not None:
            raise RuntimeFailure(f"fwd left with exit code {process.returncode} before it listened; see its log above")
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"fwd does not listen after {START_SECONDS:g} s; see its log above")
        time.sleep(0.01)


def _watch(guests: Guests, control: Path, seconds: float) -> None:
    """A line of rates per second: what the guests received, what the forwarder dropped."""
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


def _faults(counters: Counters) -> str:
    return (
        f"{counters.lost} lost, {counters.corrupt} corrupt, {counters.reordered} out of order, "
        f"{counters.duplicated} twice"
    )
