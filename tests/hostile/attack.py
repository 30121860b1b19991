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
    """It lasts, and measures the honest pair's rate itself."""
    rings: tuple[str, ...] = SPLIT
    """The ring formats that it is run on."""
    ringless: bool = False
    """It has no rings: the format is only negotiated, and is that of the other guests."""
    beyond_mini: str = ""
    """What it attacks that the broken back-end does not have: then it runs on the product alone, and names no bug."""
    ends: bool = False
    """It sends descriptors or memory: fwd is also ended while it has all of that, and started anew."""

    @property
    def stepped(self) -> bool:
        """It is about rings and frames alone and asks nothing of a session: it runs at a port, too (stepped_scene)."""
        return self.about in AT_A_PORT

    @property
    def about(self) -> str:
        """What its file is about."""
        return self.run.__module__.rpartition(".attacks_")[2]


CATALOGUE: dict[str, Attack] = {}
HANDING_OVER = ("fds", "memory")
AT_A_PORT = ("frame", "legal", "merge", "order", "packed", "receive", "recovery", "rules", "twofold")


def attack(
    *bugs: str,
    name: str = "",
    lasts: bool = False,
    rings: tuple[str, ...] = SPLIT,
    ringless: bool = False,
    beyond_mini: str = "",
    ends: bool = False,
) -> Callable[[Act], Act]:
    """Enter a function into the catalogue. `bugs`: switches of the broken back-end whose bugs it must find."""

    def enter(act: Act) -> Act:
        entry = Attack(name or act.__name__, act, bugs, lasts, rings, ringless, beyond_mini, ends)
        entry = entry._replace(ends=ends or entry.about in HANDING_OVER)
        assert entry.name not in CATALOGUE, entry.name
        assert bool(bugs) != bool(beyond_mini), f"{entry.name}: name the bugs it finds, or what no such bug can show"
        CATALOGUE[entry.name] = entry
        return act

    return enter


ring_attack = partial(attack, rings=EVERY)
"""An attack with rings, on every format."""
message_attack = partial(attack, rings=EVERY, ringless=True)
"""An attack with messages only, beside rings of every format."""
lasting_attack = partial(attack, lasts=True)
"""An attack that does the same for seconds beside the honest flood, on one ring format."""
split_attack = partial(attack, rings=("split", "split_in_order"))
"""An attack on heads, the available ring and links, which only split rings have."""
packed_attack = partial(attack, rings=PACKED)
"""An attack on what only packed rings have."""
