"""Which attacks must notice which bug of the broken mini back-end, and on which ring format."""

from __future__ import annotations

from types import CodeType

from tests.hostile.catalogue import CATALOGUE, Case, name_of
from tests.hostile.rings import FORMATS, PACKED

SPLIT_ONLY = {"twice-is-once", "stale-next", "nested-indirect", "indirect-only-first"}
SPLIT_ONLY |= {"no-head-check", "no-avail-jump-check", "no-next-check", "no-table-bound"}
Pair = tuple[str, str, str]
"""A bug, an attack that must notice it, and a ring format."""
PAIRS = [(bug, entry.name, entry.rings[0]) for entry in CATALOGUE.values() for bug in entry.bugs]
SEEN = {bug for bug, _, ring in PAIRS if ring in PACKED}
ON_PACKED = {
    bug: (bug, entry.name, "packed_in_order" if FORMATS[entry.rings[0]].in_order else "packed")
    for entry in reversed(CATALOGUE.values())
    for bug in entry.bugs
    if "packed" in entry.rings
}
PAIRS += [case for bug, case in ON_PACKED.items() if bug not in SEEN | SPLIT_ONLY]
SECOND_HAND = "a_second_hand_that_rewrites_descriptors_headers_and_tables"
PAIRS += [(bug, SECOND_HAND, "packed") for bug in ("sloppy-range", "behind-is-inside", "bad-ring-goes-on")]
PAIRS += [("double-fetch", SECOND_HAND, "packed_in_order")]
RANDOM = "random_rings"
OF_PACKED = ("batch-checks-last", "wrap-ignored", "used-bit-ignored", "gap-skipped", "used-wrap-forgotten")
OF_PACKED += ("chain-does-not-wrap", "marks-whole-chain", "id-of-first", "mask-for-modulo", "base-without-wrap")
PAIRS += [(bug, RANDOM, "packed") for bug in (*OF_PACKED, "sloppy-range", "indirect-and-next", "burst-length")]
IN_BATCHES = ("order-trusted", "batch-told-by-first", "batch-moves-one", "batch-length")
PAIRS += [(bug, RANDOM, ring) for bug in IN_BATCHES for ring in ("split_in_order", "packed_in_order")]
PAIRS += [("burst-length", entry.name, "packed") for entry in CATALOGUE.values() if "burst-length" in entry.bugs]
PAIRS = list(dict.fromkeys(PAIRS))
"""Every attack with every bug that it is there for, on one ring format; and every bug that a packed ring may have once

more on one. What an attack does that is not about descriptors is the same beside rings of any format.
"""
SHOWN_BY_FWD_ALONE = {
    ("log-every-frame", "ten_thousand_runts"),  # what is seen is the log
    ("bad-ring-goes-on", "four_descriptors_at_once_of_which_one_is_bad_at_every_place"),  # what is seen first differs
}
AT_A_PORT = [each for each in PAIRS if CATALOGUE[each[1]].stepped and each[:2] not in SHOWN_BY_FWD_ALONE]
"""At ports of that back-end, stepped by hand."""
RUNNING = [each for each in PAIRS if each not in set(AT_A_PORT)]
"""With all of that back-end running."""
HARM = {
    "double-fetch": {"I1", "I6", "I7"},
    "bad-ring-goes-on": {"B"},
    "batch-length": {"C"},
    "burst-length": {"C"},
    "receive-batch": {"C"},
}
"""What the harm that some bugs do is seen as. That a back-end with them is slow, say, would prove nothing.

Where anything else is seen first, answers are waited for longer, in the end as long as without a bug.
"""


def one_of_each(pairs: list[Pair]) -> list[Pair]:
    """Each bug once with each function that finds it, on one ring format and with one of its parameters."""
    kinds: dict[tuple[str, CodeType], Pair] = {}
    for pair in pairs:
        kinds.setdefault((pair[0], CATALOGUE[pair[1]].run.__code__), pair)
    return list(kinds.values())


def without_bugs(pairs: list[Pair]) -> list[Case]:
    """The attacks of these: what is to show that it was the bug."""
    return list(dict.fromkeys((name, ring) for _, name, ring in pairs))


def name_of_pair(pair: Pair) -> str:
    bug, name, ring = pair
    return f"{bug}-{name_of((name, ring))}"
