"""Files that a script makes from bench/results: written where they differ, or only compared."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.record import ROOT

WORDS = re.compile(r">[^<]+<")
NUMBER = re.compile(r"-?\d+\.\d+")
NEAR = 0.01
"""Points by which coordinates may differ: more than the arithmetic of two machines does, less than a reader sees."""


def bring_up_to_date(make: Callable[[], Mapping[Path, str]], arguments: Sequence[str]) -> int:
    """Write what is out of date, and print its names. --check: write nothing, and return 1 if something is."""
    parser = argparse.ArgumentParser(description="Bring pages and plots up to date with bench/results.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something is out of date")
    o = parser.parse_args(arguments)
    wanted = make()
    stale = out_of_date(wanted)
    for path in stale:
        print(path.relative_to(ROOT))
        if not o.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
    return 1 if stale and o.check else 0


def out_of_date(wanted: Mapping[Path, str]) -> list[Path]:
    """The files that are missing or have another content."""
    return [path for path, text in wanted.items() if not path.exists() or not same(path, path.read_text(), text)]


def same(path: Path, before: str, after: str) -> bool:
    """Whether two texts are the same. In a picture, coordinates may differ by NEAR."""
    if path.suffix != ".svg" or before == after:
        return before == after
    if WORDS.findall(before) != WORDS.findall(after) or NUMBER.sub("#", before) != NUMBER.sub("#", after):
        return False
    pairs = zip(NUMBER.findall(before), NUMBER.findall(after), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=0, abs_tol=NEAR) for a, b in pairs)
