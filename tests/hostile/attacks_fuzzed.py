"""Randomly generated rings: descriptors mostly right, a few of their fields wrong, input after input from a fixed seed.

The result of each input is compared with a model of the specification (`ring_model`): which chains become frames, byte
by byte, and which are dropped and why; which rule breaks the queue, and in front of which chain; what is written; what
comes back. Where the specification leaves it open, the invariants must hold. The inputs of one connection are an
episode, which depends on the ring format and its number alone: `python -m tests.hostile.attacks_fuzzed FORMAT NUMBER`
plays it again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import Counter

from tests.hostile.attack import ring_attack
from tests.hostile.fuzzed import FuzzedGuest
from tests.hostile.invariant import Broken
from tests.hostile.rings import EVERY
from tests.hostile.scene import Scene

SECONDS = 3.0
"""With the quiet turns, in which the same is done without a wrong field."""
TURNS = 5
INPUTS = 24
"""In one episode."""
LONGER = 100.0
"""The most seconds that it goes on until every rule was broken."""
MET = {
    "frame", "runt", "oversize", "gso_unsupported", "open", "wrong direction", "address outside memory",
    "table outside memory", "indirect not negotiated", "indirect out of place", "indirect table size",
    "no room for a header", "loop",
}  # fmt: skip
MET_ON_SPLIT = {"available index", "head", "next"}
"""Results that some input must have had, in any format; and on split rings."""
RULES = (
    "no-head-check", "no-avail-jump-check", "no-loop-bound", "no-next-check", "no-table-bound", "long-chain-refused",
    "sloppy-range", "behind-is-inside", "no-region-span", "odd-table", "indirect-write-flag",
)  # fmt: skip
FRAMES = ("empty-piece-ends", "no-runt-check", "no-gso-check", "header-passed-on", "merge-count-of-1")
"""Some of the bugs that it must find, on split rings. See also seeded."""


class Rounds:
    """Episode after episode, against one port."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.ring = scene, scene.ring
        self.numbers, self.good = itertools.count(), itertools.count()
        self.inputs = 0
        self.told: Counter[str] = Counter()

    def spoiled(self) -> None:
        self.episode(next(self.numbers), good=False)

    def right(self) -> None:
        self.episode(next(self.good), good=True)

    def episode(self, number: int, *, good: bool) -> None:
        rng = random.Random(f"{self.ring} {number} {good}")
        guest = None
        step = 0
        try:
            guest = FuzzedGuest(self.scene, rng, good)
            while step < INPUTS:
                guest.step()
                step += 1
            guest.counted()
        except BaseException as error:
            again = f"python -m tests.hostile.attacks_fuzzed {self.ring} {number}{' --good' if good else ''}"
            words = f"\n{again}\ninput {step} of the episode: {guest.words() if guest else 'none yet'}"
            if isinstance(error, Broken):
                raise Broken(error.invariant, str(error).removeprefix(f"{error.invariant}: ") + words) from error
            error.add_note(words)
            raise
        finally:
            self.inputs += step
        self.told.update(guest.told)
        self.scene.let_go()

    def missing(self) -> set[str]:
        """What was never met."""
        return (MET if self.scene.format.packed else MET | MET_ON_SPLIT) - set(self.told)


@ring_attack(*RULES, *FRAMES, lasts=True)
def random_rings(scene: Scene) -> None:
    """Until the time is over and, unless the back-end is slow, until every rule was met."""
    rounds = Rounds(scene)
    scene.in_turns(rounds.spoiled, rounds.right, SECONDS, attacks=TURNS)
    deadline = time.monotonic() + LONGER
    while rounds.missing() and scene.arena.endurance >= 1.0:
        if time.monotonic() > deadline:
            raise Broken("reaction", f"{rounds.inputs} inputs, and never met: {', '.join(sorted(rounds.missing()))}")
        rounds.spoiled()


def main() -> None:
    """One episode, or several, against fastvhost."""
    from tests.hostile.arena import Arena
    from tests.hostile.backend import fastvhost, mini

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ring", choices=EVERY)
    parser.add_argument("number", type=int, nargs="+")
    parser.add_argument("--good", action="store_true", help="without spoiled fields")
    parser.add_argument("--bug", action="append", help="against the broken back-end, or with '' the mended one")
    args = parser.parse_args()
    arena = Arena(mini(*filter(None, args.bug)) if args.bug else fastvhost, beside="split")
    scene = Scene(arena, args.ring)
    try:
        rounds = Rounds(scene)
        for number in args.number:
            rounds.episode(number, good=args.good)
            print(f"episode {number} passes: {dict(rounds.told)}")
    finally:
        scene.close()
        arena.close()


if __name__ == "__main__":
    main()
