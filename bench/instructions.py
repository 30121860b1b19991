"""Instructions per forwarded frame, counted by callgrind: repeatable where time is not.

Everything Worker.round does is counted, from taking the chain to publishing the used entry, the copy included; the
guests run between the rounds and are not. Under valgrind a CPU has AVX2 at most, so that is the level measured.

usage: python -m bench.instructions [--record]
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.rig import POLLED, USUAL_FEATURES, rig
from bench.switch_rig import switch_rig
from fastvhost.control.vlans import Vlans
from fastvhost.driver.frontend import Feature

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 50
CPU_LEVEL = "avx2" if platform.machine() == "x86_64" else "plain"
# Instructions are counted inside this method only. A part of the profile ends where a case closes its guests.
COUNTED = "*Worker_round*"
PART_ENDS = "*GuestRam*let_go*"


@dataclass(frozen=True)
class Case:
    """One kind of traffic, and the most instructions that a frame of it may cost."""

    name: str
    budget: float
    size: int = 64
    pieces: int = 1
    features: Feature = field(default=USUAL_FEATURES)
    journals: bool = False
    asks: str = "nothing"
    content: str = "numbers"
    learn: bool = False
    vlans: tuple[Vlans, Vlans] | None = None
    flooded_to: int = 0
    """Guests that get each frame: a copy is counted as one. 0: no flood."""


ACCESS, TRUNK = Vlans(10), Vlans(trunk=((10, 20),))
PACKED = USUAL_FEATURES | Feature.RING_PACKED
SUMS = Feature.CSUM | Feature.GUEST_CSUM

# Each budget is the count when it was last lowered, plus 3 % for other compilers.
CASES = (
    Case("64 B", 197),
    Case("1518 B", 482, size=1518),
    Case("64 B, in order", 196, features=USUAL_FEATURES | Feature.IN_ORDER),
    Case("64 B, packed", 210, features=PACKED),
    Case("64 B, packed, in order", 194, features=PACKED | Feature.IN_ORDER),
    Case("1518 B, packed", 495, size=1518, features=PACKED),
    Case("64 B, packed, noted in a journal", 213, features=PACKED, journals=True),
    Case("9000 B, mergeable", 2110, size=9000),
    Case("9000 B, packed, mergeable", 2145, size=9000, features=PACKED),
    Case("64 B, header and 3 pieces", 690, pieces=4),
    Case("64 B, header and 3 pieces, indirect", 748, pieces=4, features=USUAL_FEATURES | Feature.INDIRECT_DESC),
    Case("64 B, packed, header and 3 pieces", 745, pieces=4, features=PACKED),
    Case("64 B, packed, header and 3 pieces, indirect", 740, pieces=4, features=PACKED | Feature.INDIRECT_DESC),
    Case("64 B, learn", 222, learn=True),
    Case("64 B, packed, learn", 231, features=PACKED, learn=True),
    Case("1518 B, learn", 507, size=1518, learn=True),
    Case("64 B, VLAN without tags", 227, learn=True, vlans=(ACCESS, ACCESS), content="none"),
    Case("64 B, tag pushed one way and popped the other", 239, learn=True, vlans=(ACCESS, TRUNK), content="none"),
    Case("64 B, learn, flooded to 8, each copy", 150, flooded_to=8),
    Case("86 B", 204, size=86),
    Case("86 B, checksum passed on", 223, size=86, features=USUAL_FEATURES | SUMS, asks="checksum"),
    Case("86 B, checksum filled in", 390, size=86, features=USUAL_FEATURES | Feature.CSUM, asks="checksum"),
    Case("1518 B, checksum filled in", 797, size=1518, features=USUAL_FEATURES | Feature.CSUM, asks="checksum"),
)


def count(first: int = len(CASES)) -> dict[str, float]:
    """Instructions per frame of every case, or of so many first ones."""
    with tempfile.TemporaryDirectory() as directory:
        profile = Path(directory) / "profile"
        done = subprocess.run(
            [
                "valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}",
                "--collect-atstart=no", f"--toggle-collect={COUNTED}", f"--dump-after={PART_ENDS}",
                sys.executable, "-m", "bench.instructions", "--inside", str(first),
            ],
            cwd=ROOT,
            env={**os.environ, "FASTVHOST_CPU_LEVEL": CPU_LEVEL, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"valgrind left with {done.returncode}: {done.stderr[-2000:]}")
        frames = [int(line) for line in done.stdout.split()]
        parts = sorted(Path(directory).glob("profile.*"), key=lambda path: int(path.suffix[1:]))
        totals = [int(re.findall(r"^totals: (\d+)", part.read_text(), re.M)[-1]) for part in parts]
    counted = [total for total in totals if total]
    if not len(counted) == len(frames) == first:
        raise RuntimeError(f"{first} cases ran, {len(frames)} reported frames and {len(counted)} were counted")
    return {case.name: n / f for case, n, f in zip(CASES[:first], counted, frames, strict=True)}


def run_cases(first: int) -> None:
    """The program that runs under valgrind. Prints the frames of each of so many cases."""
    for case in CASES[:first]:
        print(run_flood(case) if case.flooded_to else run_pair(case), flush=True)


def run_pair(case: Case) -> int:
    settings = replace(POLLED, sizes=(case.size,), pieces=case.pieces, asks=case.asks, content=case.content)
    with rig(settings, features=case.features, journals=case.journals, learn=case.learn, vlans=case.vlans) as r:
        frames = 0
        for _ in range(ROUNDS):
            r.load.step()
            frames += r.worker.step()
    return frames


def run_flood(case: Case) -> int:
    with switch_rig("flood", 1 + case.flooded_to, settings=replace(POLLED, sizes=(case.size,))) as r:
        for _ in range(ROUNDS):
            r.load.step()
            r.worker.step()
        return r.delivered()


def main() -> int:
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=about)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--inside", type=int, metavar="CASES", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.inside:
        run_cases(o.inside)
        return 0
    counted = count()
    for case in CASES:
        print(f"{case.name:40} {counted[case.name]:8.1f} instructions per frame (budget {case.budget:g})")
    if o.record:
        from bench.record import write

        write("instructions", [
            {"bench": name, "unit": "instructions/frame", "median": round(n, 1), "counted_at": CPU_LEVEL}
            for name, n in counted.items()
        ])  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
