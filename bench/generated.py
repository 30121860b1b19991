"""Files that a script makes from bench/results: written where they differ, or only compared."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.record import ROOT


def bring_up_to_date(wanted: Mapping[Path, str], arguments: Sequence[str]) -> int:
    """Write what is out of date, and print its names. --check: write nothing, and return 1 if something is."""
    parser = argparse.ArgumentParser(description="Bring pages and plots up to date with bench/results.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something is out of date")
    o = parser.parse_args(arguments)
    stale = {path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if not o.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return 1 if stale and o.check else 0
