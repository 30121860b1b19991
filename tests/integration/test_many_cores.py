"""A fwd with several workers gives what ports send to the one with less to do. Real process, guests that flood."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest

from fastvhost.control import control_client
from fastvhost.driver.guests import Guests, PairSettings
from tests.unit.forwarder import Forwarder, forwarder

pytestmark = pytest.mark.alone  # floods on two workers

ONE_WAY = PairSettings(both_ways=False, sizes=(65000,), asks="segments", queue_size=256)
"""Long frames: moving one takes the worker far longer than it takes the guests, so workers are what is short."""
SECOND = "52:54:00:00:00:02"
"""The address of a pair's second guest."""
PORTS = ("a.sock", "b.sock", "c.sock", "d.sock")
APART = ("a.sock,vlan=1", "b.sock,vlan=1", "c.sock,vlan=2", "d.sock,vlan=2")
"""Both pairs of guests have the same addresses."""


def wires(fwd: Forwarder) -> list[list[str]]:
    """By worker: who sends what it delivers."""
    return [sorted(ingress for ingress, _ in one["wires"]) for one in fwd.stats()["workers"].values()]


@pytest.mark.parametrize("forward", ["patch", "learn"])
def test_of_two_floods_at_one_worker_the_other_worker_gets_one_and_nothing_is_lost_uncounted(forward: str) -> None:
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:2])
    named = ("--wire", "a:b", "--wire", "c:d") if forward == "patch" else ()
    options = ("--forward", forward, "--cores", cores, "--hold-timeout", "60s", *named)
    with forwarder(*options, ports=APART if forward == "learn" else PORTS) as fwd, contextlib.ExitStack() as closing:
        if forward == "learn":    # guests that receive alone are unknown, and floods are limited
            for vlan, port in ((1, "b"), (2, "d")):
                control_client.ask(str(fwd.directory / "control.sock"), "mac-add", address=SECOND, port=port, vlan=vlan)
        before = wires(fwd)
        assert "a" in before[0]
        assert "c" in before[0]
        paths = [str(fwd.directory / port) for port in PORTS]
        pairs = [closing.enter_context(Guests(*two, ONE_WAY)) for two in (paths[:2], paths[2:])]
        fwd.wait_log(" does it instead of worker0 (busy ")
        after = wires(fwd)
        assert len({"a", "c"} & set(after[0])) == 1
        assert sorted(itertools.chain(*after)) == ["a", "b", "c", "d"]
        counted = [pair.counters().a_to_b.frames for pair in pairs]
        fwd.wait_for(
            "frames on both",
            lambda: all(p.counters().a_to_b.frames > n for p, n in zip(pairs, counted, strict=True)),
        )
        lost: list[int] = []
        for pair in pairs:
            seen = pair.stop().a_to_b
            assert (seen.corrupt, seen.reordered, seen.duplicated) == (0, 0, 0)
            lost.append(seen.lost)
        told = fwd.stats()["ports"]
        assert lost == [told[port]["tx_dropped"]["no_receive_buffers"] for port in "bd"]
        assert forward == "learn" or not any(lost)
