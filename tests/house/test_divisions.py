"""`//` and `%` have unsigned operands only: with "cdivision" those of negative numbers are C's, and -1 % 5 is -1.

(An index made of such a remainder once wrote before its array.) Without "cdivision", Cython calls a function of its own
for each division of signed numbers, so translating the sources like that names them.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.house import sources
from tests.house.generated_c import translate, translated

DIVIDES = re.compile(r"//|%(?![sdr\"'])")
SIGNED = re.compile(r"__Pyx_(?:div|mod)_\w+\(")
UNSIGNED = "an unsigned number of 32 bits by a small constant, which Cython computes in a signed one of 64"
REVIEWED = {
    ("notify.pxd", "slot // 64"): UNSIGNED,
    ("notifier.pyx", "slot // 64"): "a slot is 0 to MOST_SLOTS - 1 (Helper.round, Helper.put)",
    ("packed_ring.pyx", "(n + DESCRIPTORS_PER_LINE - 1) // DESCRIPTORS_PER_LINE"): UNSIGNED,
    ("endpoint_slots.pyx", "slots // 2"): UNSIGNED,
    ("pcap_file.pyx", "now.tv_nsec // 1000"): "the kernel's clock: 0 to 999999999",
    ("virtio_change.pyx", "change.n_queues // 2"): UNSIGNED,
    ("virtio_port.pyx", "index // 2"): UNSIGNED,
    ("device.pyx", "index // 2"): UNSIGNED,
    ("device.pyx", "(n_bytes + CACHE_LINE - 1) // CACHE_LINE"): UNSIGNED,
    ("device.pyx", "i % len(sizes)"): "both count from 0, and the constructor refuses no sizes at all",
}
"""By module and expression: why its numbers are never negative."""


def signed_divisions(tree: Path, modules: list[Path]) -> list[tuple[str, str]]:
    """Where Cython divides signed numbers: module and line."""
    found = []
    for module in modules:
        source = (tree / module).read_text().splitlines()
        at = 0
        for line in (tree / module.with_suffix(".c")).read_text().splitlines():
            if place := re.match(rf'\s*/\* "{re.escape(str(module))}":(\d+)', line):
                at = int(place[1])
            elif at and SIGNED.search(line) and DIVIDES.search(source[at - 1]):
                found.append((module.name, source[at - 1].strip()))
    return sorted(set(found))


def is_reviewed(module: str, line: str) -> bool:
    return any(module == name and words in line for name, words in REVIEWED)


def test_nothing_divides_a_number_that_may_be_negative() -> None:
    compiled = [path for path in sources.files(".pyx") if DIVIDES.search(path.read_text())]
    tree, _ = translated(compiled, cdivision=False)
    found = signed_divisions(tree, [path.relative_to(sources.ROOT) for path in compiled])
    assert [one for one in found if not is_reviewed(*one)] == []
    assert len(found) >= 5  # the known ones are found, so the patterns match


def test_a_planted_division_of_a_signed_number_is_found(tmp_path: Path) -> None:
    planted = Path("planted.pyx")
    (tmp_path / planted).write_text("def f(Py_ssize_t i, unsigned int n):\n    return i % <int>n\n")
    translate(tmp_path, [planted], cdivision=False)
    assert signed_divisions(tmp_path, [planted]) == [("planted.pyx", "return i % <int>n")]
