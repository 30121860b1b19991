"""The attacks on rings once more against a build with AddressSanitizer and UndefinedBehaviorSanitizer.

Any report of theirs is found in the log, and ends the process: I1. How fast such a build is, is no question.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import endurance
from tests.hostile.arena import Arena
from tests.hostile.catalogue import CASES, CATALOGUE, Case, name_of
from tests.hostile.conftest import Shared
from tests.hostile.sanitized import OPTIONS, ROOT, build, run, sanitized

WITHOUT_RINGS = {
    f"tests.hostile.attacks_{about}" for about in ("costly", "doors", "fds", "message", "shared", "shares", "sustained")
}
ON_RINGS = [
    (name, ring)
    for name, ring in CASES
    if CATALOGUE[name].run.__module__ not in WITHOUT_RINGS and (ring == "split" or not CATALOGUE[name].ringless)
]


@pytest.fixture(scope="module")
def package() -> Path:
    return build(ROOT / "build" / "sanitized")


@pytest.fixture(scope="module")
def shared(package: Path, pytestconfig: pytest.Config) -> Iterator[Shared]:
    longer = endurance(pytestconfig)
    shared = Shared(lambda beside: Arena(sanitized(package), beside=beside, pace=2000, rates=False, endurance=longer))
    yield shared
    shared.close()


def test_it_is_the_sanitized_build_that_runs(shared: Shared, package: Path) -> None:
    maps = shared.get().backend.maps()
    for part in ("libasan", "libubsan", f"{package}/fastvhost/dataplane/packed_ring"):
        assert part in maps


@pytest.mark.parametrize("case", ON_RINGS, ids=name_of)
def test_no_report(case: Case, shared: Shared) -> None:
    name, ring = case
    shared.get().run(CATALOGUE[name], ring)


OVERRUN = """
import ctypes, os, re, sys
from fastvhost import Mapping

pytestmark = pytest.mark.alone

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


def test_odd_calls_of_everything_compiled_touch_no_memory_but_their_own(package: Path, tmp_path: Path) -> None:
    """As tests/unit/test_public_api.py does it: with the bounds of arrays and of all memory watched."""
    seed, note = str(random.randrange(1 << 30)), tmp_path / "call"
    done = run(package, "-c", (ROOT / "tests" / "odd_calls.py").read_text(), seed, "2000", str(note), timeout=120)
    assert done.returncode == 0, f"seed {seed}: {note.read_text().strip()}\n{done.stderr[-4000:]}"
    assert "Sanitizer" not in done.stderr
