"""What does an address cost at the forwarding table, and a flood of frames to eight guests?"""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.measure import per_unit
from bench.switch_rig import switch_rig
from fastvhost.dataplane.forwarding_table import ForwardingTable
from tests.probes.mac_tables import Keys, destination

PORTS, FLOODED = 4, 8
LOOK_UPS = 1 << 20
BURST, STEPS = 64, 2000


def addresses(n: int) -> list[int]:
    """Keys in random order."""
    chosen = random.Random(1)
    return [destination(b"\x02" + chosen.randbytes(5) + bytes(6), 1) for _ in range(n)]


@pytest.mark.parametrize("n", [1000, 65536])
def test_look_up(benchmark: Any, n: int) -> None:
    table, keys = ForwardingTable(addresses=65536, ports=PORTS), Keys(addresses(n))
    table.set_limits(1, max_macs=n)
    keys.learn_all(table, 1, 1)
    per_unit(benchmark, LOOK_UPS // n * n, "address", keys.find_all, table, LOOK_UPS // n)


@pytest.mark.parametrize("n", [1000, 65536])
def test_learned_already(benchmark: Any, n: int) -> None:
    table, keys = ForwardingTable(addresses=65536, ports=PORTS), Keys(addresses(n))
    table.set_limits(1, max_macs=n)
    keys.learn_all(table, 1, 1)
    per_unit(benchmark, LOOK_UPS // n * n, "address", keys.learn_all, table, 1, LOOK_UPS // n)


def test_learn(benchmark: Any) -> None:
    """Each address moves from one port to the other, turn by turn."""
    table, keys = ForwardingTable(addresses=65536, ports=PORTS), Keys(addresses(1000))
    seconds = iter(range(1, 1 << 15))

    def move() -> None:
        for port in (1, 2):
            table.set_tick(next(seconds))
            assert keys.learn_all(table, port, 1) == 1000

    per_unit(benchmark, 2 * 1000, "address", move)


def test_flood(benchmark: Any) -> None:
    """A burst to everybody, a copy for each of eight guests, per copy."""
    with switch_rig("flood", 1 + FLOODED) as r:
        benchmark.extra_info.update(units=BURST * FLOODED, unit="copy")
        benchmark.pedantic(r.worker.step, setup=lambda: r.load.step() and None, rounds=STEPS, warmup_rounds=20)
        assert r.delivered() >= BURST * FLOODED
