"""The attacks on rings once more on a debug build with AddressSanitizer and UndefinedBehaviorSanitizer.

Any report of theirs is found in the log, and ends the process: I1. So does a check of the debug build that fails. How
fast such a build is, is no question, and what others notice of an attack, no more: test_attacks asks that. Attacks on
rings and frames alone are run at a port of a switch, and so are the unit tests that drive rings; randomly generated
rings, and what needs a session or memory that changes meanwhile, are run on a running fwd. Each attack on one ring
format, in turn; with --long on all of its formats, and at a wire, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.arena import Arena
from tests.hostile.catalogue import CASES, CATALOGUE, Case, in_turn, name_of
from tests.hostile.conftest import BRIEF_ONES, Shared, endurance
from tests.hostile.sanitized import OPTIONS, ROOT, build, run, sanitized

pytestmark = pytest.mark.timeout(900)  # the build, on a busy machine
WITHOUT_RINGS = {"costly", "doors", "fds", "message", "shared", "shares", "sustained"}
ON_RINGS = [
    (name, ring)
    for name, ring in CASES
    if CATALOGUE[name].about not in WITHOUT_RINGS
    and not CATALOGUE[name].stepped
    and (ring == "split" or not CATALOGUE[name].ringless)
]


@pytest.fixture(scope="module")
def package() -> Path:
    return build(ROOT / "build" / "sanitized")


@pytest.fixture(scope="module")
def shared(package: Path, pytestconfig: pytest.Config) -> Iterator[Shared]:
    longer = endurance(pytestconfig)

    def make(beside: str) -> Arena:
        return Arena(sanitized(package), beside=beside, pace=500, rates=False, endurance=longer)

    shared = Shared(make, BRIEF_ONES)
    yield shared
    shared.close()


def test_it_is_the_sanitized_build_that_runs(shared: Shared, package: Path) -> None:
    maps = shared.get().backend.maps()
    for part in ("libasan", "libubsan", f"{package}/fastvhost/dataplane/packed_ring"):
        assert part in maps


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = ON_RINGS if metafunc.config.getoption("--long") else in_turn(ON_RINGS)
        metafunc.parametrize("case", cases, ids=name_of)


def test_no_report(case: Case, shared: Shared) -> None:
    name, ring = case
    shared.get().run_briefly(CATALOGUE[name], ring)


OVERRUN = """
import ctypes, os, re, sys
from fastvhost import Mapping

fd = os.memfd_create("two-regions")
os.ftruncate(fd, 2 << 20)
mappings = [Mapping(fd, at, 1 << 20, at, at) for at in (0, 1 << 20)]
places = [line.split()[0] for line in open("/proc/self/maps") if "two-regions" in line]
start, end = sorted(tuple(int(bound, 16) for bound in place.split("-")) for place in places)[0]
assert end - start == 1 << 20, places  # else they lie side by side, and are shown as one
ctypes.memset(start, 1, 1 << 20)
print("all of it", flush=True)
ctypes.memset(start - 1 if sys.argv[1] == "before" else end, 1, 1)
print("and one byte more", flush=True)
"""


@pytest.mark.parametrize("where", ["before", "behind"])
def test_one_byte_beyond_a_region_of_guest_memory_is_reported(where: str, package: Path) -> None:
    done = run(package, "-c", OVERRUN, where)
    assert done.stdout == "all of it\n"
    assert "AddressSanitizer: SEGV on unknown address" in done.stderr
    assert done.returncode == OPTIONS["ASAN_OPTIONS"]["exitcode"]


def test_odd_calls_of_everything_public_touch_no_memory_but_their_own(package: Path, tmp_path: Path) -> None:
    """As tests/unit/test_public_api.py does it: with the bounds of arrays and of all memory watched."""
    seed, note = str(random.randrange(1 << 30)), tmp_path / "call"
    done = run(package, "-c", (ROOT / "tests" / "odd_calls.py").read_text(), seed, "2000", str(note), timeout=120)
    assert done.returncode == 0, f"seed {seed}: {note.read_text().strip()}\n{done.stderr[-4000:]}"
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr


UNIT_TESTS = (
    "already_there", "backlog", "bad_behind_good", "broken_rings", "conservation", "counts", "cutting", "endpoint",
    "forwarding", "guest_memory", "in_order_batches", "learn", "mac_table", "mac_table_shared", "malformed_offloads",
    "packed_ring", "pieces", "visit_budget",
)  # fmt: skip
"""Those that drive rings and forwarding in a process of their own, and measure nothing."""
STEPPED_ATTACKS = ("rules", "attacks_at_a_switch")
LONG = "test_seventy_thousand_frames_each_way_arrive_in_order_over_an_index_wrap"
PYTEST = """
import sys
sys.path.insert(0, sys.argv[1])
import fastvhost, pytest
assert fastvhost.__file__.startswith(sys.argv[1]), fastvhost.__file__
assert "-DFASTVHOST_DEBUG=1" in fastvhost.build_info()["flags"]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def test_no_check_fails_and_no_report_comes_in_the_unit_tests_of_rings_and_forwarding(package: Path) -> None:
    files = [f"tests/unit/test_{name}.py" for name in UNIT_TESTS]
    passes(package, "-k", f"not {LONG}", *files)


def test_no_check_fails_and_no_report_comes_of_the_attacks_at_a_port(
    package: Path, pytestconfig: pytest.Config
) -> None:
    more = ("stepped_attacks",) if pytestconfig.getoption("--long") else ()
    passes(package, *(f"tests/hostile/test_{name}.py" for name in (*STEPPED_ATTACKS, *more)))


def passes(package: Path, *words: str) -> None:
    """All of these tests, on that build."""
    done = run(ROOT, "-c", PYTEST, str(package), *words, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


MISCOUNT = """
import sys
sys.path.insert(0, sys.argv[1])
import fastvhost
sys.path.insert(0, sys.argv[2])
from tests.probes.bench_dataplane import complete_and_publish
from tests.unit.rig import rig

with rig(size=32) as r:
    complete_and_publish(r.a.port, 1, 1)  # as if 64 chains were outstanding
"""


def test_a_check_that_fails_ends_the_process_with_its_name(package: Path) -> None:
    done = run(ROOT, "-c", MISCOUNT, str(package), str(ROOT))
    assert "check failed: split ring: no more is staged than it has entries" in done.stderr
    assert done.returncode != 0
