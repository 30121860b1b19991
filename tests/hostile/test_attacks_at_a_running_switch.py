"""The catalogue against one port of a running switch, `fwd --forward learn`, with honest guests at its other ports.

All invariants hold as on wires: the honest stream keeps its frames, and beside attacks that last the honest flood keeps
its rate; no frame of the attacker's reaches a guest of another VLAN. The first attack of each file that does not last,
and two that do, each on one ring format in turn; with --long, all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.catalogue import CATALOGUE, WHOLE, Case, name_of
from tests.hostile.conftest import Shared, endurance
from tests.hostile.flood import LEAST_SHARE, Shares
from tests.hostile.invariant import Broken
from tests.hostile.mill import Mill, in_pieces
from tests.hostile.rings import EVERY
from tests.hostile.running_switch import LeakyArena, SwitchedArena
from tests.hostile.scene import Scene

pytestmark = pytest.mark.alone

LASTING = ("memory_tables_without_end", "frames_of_1020_pieces_of_a_byte")
"""Changes that each worker has to let in, and frames that cost it much."""
PAIRS = 3
"""Of turns, with the attack and without."""
FRAMES_THAT_PASS = "the_shortest_frame"
BRIEFLY = 0.1
"""The part of its time that such an attack gets, beside its turns with the flood."""


def some() -> list[Case]:
    """One attack of each file, and those that last."""
    first: dict[str, str] = {}
    for entry in CATALOGUE.values():
        if not entry.lasts:
            first.setdefault(entry.about, entry.name)
    names = [*first.values(), *LASTING]
    return [(name, CATALOGUE[name].rings[at % len(CATALOGUE[name].rings)]) for at, name in enumerate(names)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = WHOLE if metafunc.config.getoption("--long") else some()
        metafunc.parametrize("case", sorted(cases, key=lambda case: EVERY.index(case[1])), ids=name_of)


@pytest.fixture(scope="module")
def shared(pytestconfig: pytest.Config) -> Iterator[Shared]:
    factor = endurance(pytestconfig) if pytestconfig.getoption("--long") else BRIEFLY
    made = Shared(lambda beside: SwitchedArena(beside=beside, endurance=factor))
    yield made
    made.close()


def test_attack(case: Case, shared: Shared) -> None:
    name, ring = case
    shared.get(ring).run(CATALOGUE[name], ring)


def test_where_an_attackers_frames_reach_another_vlan_an_honest_guest_reports_them() -> None:
    arena = LeakyArena(flood=False)
    try:
        with pytest.raises(Broken, match=r"a frame of .* to c is corrupt"):
            arena.run(CATALOGUE[FRAMES_THAT_PASS])
    finally:
        arena.close()


def test_where_nobody_waits_for_room_the_flood_finds_a_worker_that_works_for_another_port() -> None:
    """As on wires: the flood's ports are two of three that send, which is less than nine tenths."""
    arena = SwitchedArena()
    scene = Scene(arena)
    try:
        flood = arena.start_flood()
        mill = Mill(scene, in_pieces(1020, 1))
        arena.honest.pause(True)
        with arena.off_the_workers_core(), pytest.raises(Broken, match="the honest flood kept"):
            Shares(flood, mill.turn, lambda: mill.turn(on=False)).measure(LEAST_SHARE, PAIRS)
        mill.close()
    finally:
        scene.close()
        arena.close()
