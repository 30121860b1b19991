"""Random changes of a running fwd under traffic: nothing breaks or leaks, a pair that is left alone is not disturbed.

Guests at a and b flood each other, and nobody touches their ports. Guests at c and d do, while wires, ports, policies
and addresses change. On wires the pair loses nothing. A switch drops what its receiver has no room for, so there the
pair's losses are what was counted as that, and nothing is dropped for any other reason.

With --long there are 10,000 operations, in turns of a second with changes and a second in which the same processes ask
and answer questions, and what the pair keeps of its rate is recorded: frames a second of the time in which its thread
and the worker both had a CPU, as beside attacks (tests/hostile/flood). So neither the CPU time of whoever asks and
answers, on the guests' CPU, counts as a loss, nor that a guest finds more to do after a wait for its CPU as a gain.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench import record
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.driver.guests import Guests, PairSettings
from tests.conftest import endurance
from tests.holdings import Holdings
from tests.hostile.flood import LEAST_SHARE, Flood, Shares
from tests.integration.changers import Changer, OfWires
from tests.integration.switch_changer import ALONE, AT_FIRST, OfSwitch
from tests.unit.forwarder import Forwarder, forwarder
from tests.worker_thread import kept_on, workers

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1800)]  # with --long

OPERATIONS = 300
LONG_OPERATIONS = 10_000
TURN = 1.0
"""Seconds of a turn."""
LIMIT = {"pps": "50k"}
"""Of c and d where the rate of a and b is measured: else it would be higher whenever c and d are not joined."""
GROWTH = 4 << 20
"""Bytes of resident memory by which a fwd may grow while it stays the same: its allocator keeps some."""
STAYS = "stays mapped until the next change"
NO_ROOM = "no_receive_buffers"


@dataclass(frozen=True)
class Way:
    """How fwd forwards, and what changes meanwhile. keys: of a and b, of c and d."""

    changer: type[Changer]
    options: tuple[str, ...]
    alone: dict[str, str]
    touched: dict[str, str]
    drops: frozenset[str]
    """Reasons for which frames of a and b may be dropped."""

    def ports(self, limit: dict[str, str]) -> tuple[str, ...]:
        keys = {"a": self.alone, "b": self.alone, "c": self.touched | limit, "d": self.touched | limit}
        return tuple(
            ",".join([f"{name}.sock", *(f"{key}={value}" for key, value in own.items())]) for name, own in keys.items()
        )


HOLDS = ("--on-full", "hold", "--hold-timeout", "600s")
WAYS = {
    "patch": Way(OfWires, ("--forward", "patch", "--wire", "a:b", *HOLDS), {}, {}, frozenset()),
    "learn": Way(OfSwitch, ("--forward", "learn"), ALONE, AT_FIRST, frozenset({NO_ROOM})),
}


@contextlib.contextmanager
def flood(fwd: Forwarder) -> Iterator[Flood]:
    """Of a and b."""
    fwd.wait_for("a worker", lambda: workers(fwd.process.pid))
    paths = [fwd.directory / f"{name}.sock" for name in "ab"]
    guests = Flood(paths, "split", fwd.process.pid, fwd.directory / "flood.log")
    try:
        guests.start()
        yield guests
    finally:
        guests.stop()


@contextlib.contextmanager
def traffic(fwd: Forwarder, core: int | None) -> Iterator[None]:
    """Of c and d."""
    guests = Guests(*(str(fwd.directory / f"{name}.sock") for name in "cd"), PairSettings(sleeps=True, core=core))
    guests.start()
    try:
        yield
    finally:
        guests.stop()


def drops(fwd: Forwarder) -> Counter[str]:
    """Frames of a and b that were dropped, by reason."""
    ports = fwd.stats()["ports"]
    found: Counter[str] = Counter()
    for name in "ab":
        for way in ("rx", "tx"):
            found.update({reason: n for reason, n in ports[name][f"{way}_dropped"].items() if n})
    return found


def await_nothing_left(fwd: Forwarder, changer: Changer, before: Holdings) -> None:
    """Files and memory of a guest that was cut off are given back a moment later.

    Where the worker had no CPU for so long that they were not, the log says so, and the next change tries again.
    """
    deadline = time.monotonic() + MAX_WAIT
    while more := Holdings(fwd.process.pid).beyond(before, len("abcd")):
        assert time.monotonic() < deadline, f"left: {more}\n{fwd.log[-3000:]}"
        if STAYS in fwd.log:
            changer.refused("port-add", spec=changer.socket("a"))
        time.sleep(0.05)


@pytest.mark.parametrize("forward", WAYS)
def test_random_changes_under_traffic_break_nothing_leak_nothing_and_leave_other_ports_alone(
    forward: str, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    way, long = WAYS[forward], endurance(pytestconfig) > 1
    operations = LONG_OPERATIONS if long else OPERATIONS
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # shown where it fails
    ports = way.ports(LIMIT if long else {})
    with forwarder(*way.options, ports=ports, log_has="control socket") as fwd, flood(fwd) as alone:
        changer = way.changer(fwd, seed)
        changer.check()
        told = len(fwd.warnings)  # that c and d have no wire
        shares = Shares(alone, changer.change, changer.check, TURN)
        core = alone.core if long else None  # measured, the worker has its CPU for itself
        with kept_on(core), traffic(fwd, core):
            while changer.done < operations // 4:
                changer.change()
            changer.restore()
            before, start = Holdings(fwd.process.pid), time.monotonic()
            while changer.done < operations:
                shares.pair() if long else changer.change()
            seconds, moved = time.monotonic() - start, alone.look().frames
            wait_until("frames of the pair left alone", MAX_WAIT, lambda: alone.look().frames > moved)
            changer.restore()
            changer.check()
            await_nothing_left(fwd, changer, before)
            after = Holdings(fwd.process.pid)
            assert after.resident - before.resident < GROWTH
        alone.rest()
        counted, dropped = alone.count(), drops(fwd)
        assert (counted.corrupt, counted.reordered, counted.duplicated) == (0, 0, 0)
        assert dropped.keys() <= way.drops
        assert counted.lost == dropped.total()
        assert [line for line in fwd.warnings[told:] if "door" not in line and STAYS not in line] == []
        alone.stop()
        assert fwd.end()[0] == 0
    figure = {
        "bench": f"changes under {forward}", "unit": "of the rate without them", **shares.spread,
        "pairs": len(shares.ratios), "operations": changer.done, "seconds": round(seconds, 1), "seed": seed,
        "frames": counted.frames, "lost": counted.lost, "without_room": dropped[NO_ROOM],
        "before": before.figures, "after": after.figures,
    }  # fmt: skip
    if long:
        with capsys.disabled():
            print(f"\n{figure}")
        record.write("soak", [figure])
        assert shares.median >= LEAST_SHARE
