"""The attacks on rings and frames at one of four ports of a switch, which is stepped: what others notice of them.

What each must lead to on its own port is the same as at a wire. Each runs on one ring format, in turn; with --long, on
all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.driver import Piece
from tests.hostile.catalogue import CATALOGUE, STEPPED, name_of
from tests.hostile.scene import Scene
from tests.hostile.stepped_scene import check_unmapped, run_on
from tests.hostile.stepped_switch import ADDRESSES, PAYLOAD, SwitchArena, run_at_a_switch

ONE_FORMAT = [
    (entry.name, entry.rings[number % len(entry.rings)])
    for number, entry in enumerate(entry for entry in CATALOGUE.values() if entry.stepped)
]
BURSTS, FRAMES = 100, 60
"""Six times as many addresses as that table is made for."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", STEPPED if metafunc.config.getoption("--long") else ONE_FORMAT, ids=name_of)


@pytest.fixture(scope="module", autouse=True)
def unmapped() -> Iterator[None]:
    yield
    check_unmapped()


def test_attack(case: tuple[str, str]) -> None:
    name, ring = case
    run_at_a_switch(CATALOGUE[name].run, ring)


class Full(SwitchArena):
    """A table that is soon full, of which every port may have all."""

    addresses = 1024


@pytest.mark.parametrize("most", [1024, 1 << 20], ids=["at its limit", "without a limit"])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_random_source_addresses_without_end_evict_no_neighbour_and_nobody_else_gets_its_frames(
    ring: str, most: int
) -> None:
    chosen, arena = random.Random(4), Full(ring)
    arena.table.set_limits(0, max_macs=most)
    known = {name: mac.hex(":") for name, mac in ADDRESSES.items()}

    def act(scene: Scene) -> None:
        guest = scene.boot()
        places = [guest.put(bytes(72)) for _ in range(FRAMES)]
        for _ in range(BURSTS):
            for addr in places:
                source = bytes([chosen.randrange(64) << 2 | 2]) + chosen.randbytes(5)
                guest.memory.write(addr, bytes(12) + ADDRESSES["c"] + source + PAYLOAD)
            guest.transmitq.offer(*[guest.transmitq.chain([Piece(addr, 72)]) for addr in places])
            guest.transmitq.wait_used(FRAMES, scene.max_wait)
            assert len(arena.others["c"].net.receive_all()) == FRAMES
            arena.talk()
            assert {name: arena.table.find(mac) for name, mac in known.items()} == {"c": 2, "d": 3}

    run_on(arena, act, ring)
    counted = [arena.table.counters(port) for port in range(4)]
    assert counted[0]["entries"] >= arena.addresses
    assert counted[0]["at_limit"] + counted[0]["evicted"] > FRAMES * BURSTS // 2
    assert [counted[port]["evicted"] for port in (1, 2, 3)] == [0, 0, 0]
