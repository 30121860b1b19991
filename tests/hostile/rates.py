"""The share of its rate that the built-in flood keeps beside lasting attacks: quartiles of many paired turns.

usage: python -m tests.hostile.rates [--pairs N] [--record] [NAME | NAME:FORMAT ...]

Without names: every lasting attack, on its first ring format. In the quiet turns the same processes do as much harmless
work. A port that legally takes as much of the worker as it can gets half of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from bench.record import write
from tests.hostile.arena import Arena
from tests.hostile.attack import Attack
from tests.hostile.catalogue import CATALOGUE
from tests.hostile.flood import Shares
from tests.hostile.invariant import Broken

BRIEFLY = 0.25
"""The part of an attack's usual time that it runs beside its turns."""


def line(name: str, ring: str, shares: Shares) -> dict[str, Any]:
    """What bench/results has of one attack."""
    return {
        "bench": name,
        "rings": ring,
        "unit": "of the rate without it",
        **shares.spread,
        "pairs": len(shares.ratios),
        "mpps_without": round(statistics.median([calm for _, calm in shares.rates] or [0.0]) / 1e6, 2),
    }


def measured(entry: Attack, ring: str, pairs: int) -> dict[str, Any]:
    """Measure with a new fwd, whose ports have all of their shares. Raises Broken, but not for the rate."""
    arena = Arena(beside=ring, endurance=BRIEFLY, pairs=pairs)
    try:
        arena.run(entry, ring)
    except Broken as broken:
        if broken.invariant != "I2" or not arena.shares:
            raise
        print(broken, file=sys.stderr)
    finally:
        arena.close()
    return line(entry.name, ring, arena.shares[-1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile.rates", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--pairs", type=int, default=48, help="of turns, a second each; default %(default)s")
    parser.add_argument("--record", action="store_true", help="a line for each in bench/results/attacks.jsonl")
    parser.add_argument("names", nargs="*", metavar="NAME[:FORMAT]")
    o = parser.parse_args()
    for name in o.names or [entry.name for entry in CATALOGUE.values() if entry.lasts]:
        name, _, ring = name.partition(":")
        if name not in CATALOGUE or not CATALOGUE[name].lasts:
            print(f"rates: no attack {name} lasts; tests/hostile/attacks_*.py enter them", file=sys.stderr)
            return 2
        figure = measured(CATALOGUE[name], ring or CATALOGUE[name].rings[0], o.pairs)
        spread = f"({figure['q1']:.2f}..{figure['q3']:.2f}, {figure['pairs']} pairs)"
        print(f"{name:50} {figure['rings']:7} {figure['median']:6.3f} {spread}", flush=True)
        if o.record:
            write("attacks", [figure])
    return 0


if __name__ == "__main__":
    sys.exit(main())
