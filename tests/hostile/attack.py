"""The catalogue: every attack by name, with the bugs under which it must be caught."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.hostile.rings import EVERY, PACKED, SPLIT

if TYPE_CHECKING:
    from tests.hostile.scene import Scene

Act = Callable[["Scene"], None]


class Attack(NamedTuple):
    """Something hostile, or legal but odd. Its name reads as a sentence."""

    name: str
    run: Act
    bugs: tuple[str, ...]
    lasts: bool = False
    """It takes its time, and measures the honest pair's rate itself."""
    rings: tuple[str, ...] = SPLIT
    """The ring formats that it is run on."""
    ringless: bool = False
    """It has no rings itself: the format is what it negotiates, and what the guests beside it have."""
    beyond_mini: str = ""
    """What it is about that the broken back-end has not: it is run on the product alone, and no bug is named."""
    ends: bool = False
    """It hands over descriptors or memory: the product is ended with all of it in hand, and started anew."""


CATALOGUE: dict[str, Attack] = {}
HANDING_OVER = ("attacks_fds", "attacks_memory")


def attack(
    *bugs: str,
    name: str = "",
    lasts: bool = False,
    rings: tuple[str, ...] = SPLIT,
    ringless: bool = False,
    beyond_mini: str = "",
    ends: bool = False,
) -> Callable[[Act], Act]:
    """Enter a function into the catalogue. `bugs`: switches of the broken back-end that it must show up."""

    def enter(act: Act) -> Act:
        hands_over = ends or act.__module__.rpartition(".")[2] in HANDING_OVER
        entry = Attack(name or act.__name__, act, bugs, lasts, rings, ringless, beyond_mini, hands_over)
        assert entry.name not in CATALOGUE, entry.name
        assert bool(bugs) != bool(beyond_mini), f"{entry.name}: name the bugs it finds, or what no such bug can show"
        CATALOGUE[entry.name] = entry
        return act

    return enter


ring_attack = partial(attack, rings=EVERY)
"""With rings, of every format."""
message_attack = partial(attack, rings=EVERY, ringless=True)
"""With messages alone, beside rings of every format."""
lasting_attack = partial(attack, lasts=True)
"""With seconds of doing the same beside the honest flood, on one ring format."""
split_attack = partial(attack, rings=("split", "split_in_order"))
"""With heads, an available ring and links, which only split rings have."""
packed_attack = partial(attack, rings=PACKED)
"""With what only packed rings have."""
