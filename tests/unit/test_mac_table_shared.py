"""The forwarding table while one worker learns, others look up, and control flushes and sweeps."""

from __future__ import annotations

from threading import Thread

import pytest

from fastvhost.dataplane.forwarding_table import ForwardingTable
from tests.probes.mac_tables import Keys, destination

PORTS = 3
"""A station is seen at two of twice as many."""
STATIONS = 4000
"""Twice as many as there are places, so that most are learned in place of another one."""
TURNS = 300
WATCHERS = 2


@pytest.fixture
def keys() -> list[int]:
    return [destination(n.to_bytes(6, "little") + bytes(6), 0) for n in range(256, 256 + 2 * STATIONS, 2)]


def test_an_answer_is_always_a_port_that_the_address_had(keys: list[int]) -> None:
    table = ForwardingTable(addresses=1024, ports=2 * PORTS, max_age=2)
    for port in range(2 * PORTS):
        table.set_limits(port, max_macs=1 << 20)
    worker, watchers = Keys(keys), [Keys(keys) for _ in range(WATCHERS)]
    seen: list[tuple[int, int]] = []
    learned: list[int] = []
    threads = [Thread(target=lambda one=one: seen.append(one.watch(table, PORTS))) for one in watchers]
    learner = Thread(target=lambda: learned.append(worker.churn(table, PORTS, TURNS)))
    for thread in (*threads, learner):
        thread.start()
    tick = 0
    while learner.is_alive():
        tick += 1
        table.set_tick(tick)
        table.sweep(100)
        if tick % 10 == 0:
            table.flush(port=tick % PORTS)
        learner.join(0.001)
    # Whatever the threads' speeds were: some hits at least.
    while not any(table.find(f"{n % 256:02x}:{n // 256:02x}:00:00:00:00") is not None for n in range(256, 8256, 2)):
        worker.churn(table, PORTS, 1)
    for one in watchers:
        one.stop()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert learned[0] > STATIONS
    assert len(seen) == WATCHERS
    assert sum(hits for hits, _ in seen) > 0
    assert [wrong for _, wrong in seen] == [0] * WATCHERS


def test_entries_are_counted_right_after_all_of_that(keys: list[int]) -> None:
    table = ForwardingTable(addresses=1024, ports=2 * PORTS, max_age=300)
    for port in range(2 * PORTS):
        table.set_limits(port, max_macs=1 << 20)
    workers = [Keys(keys) for _ in range(2)]
    threads = [Thread(target=one.churn, args=(table, PORTS, TURNS // 3)) for one in workers]
    for thread in threads:
        thread.start()
    flushes = 0
    while any(thread.is_alive() for thread in threads):
        table.set_tick(flushes)
        table.flush(port=flushes % PORTS)
        flushes += 1
        threads[0].join(0.001)
    for thread in threads:
        thread.join(30)
    workers[0].churn(table, PORTS, 1)  # what threads learned may be too old by now
    table.sweep()
    by_port = [0] * (2 * PORTS)
    for row in table.rows():
        by_port[row.port] += 1
    assert [table.counters(port)["entries"] for port in range(2 * PORTS)] == by_port
    assert sum(by_port) > 0
