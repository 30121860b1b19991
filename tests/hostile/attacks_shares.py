"""Legal frames that cost the worker much time, from an attacker at both ends of a wire, beside the honest flood.

The attacker's port gets its share of the worker and no more, whatever its frames and however many queue pairs.
"""

from __future__ import annotations

from functools import partial

from tests.hostile.attack import lasting_attack
from tests.hostile.flood import FAIR_SHARE
from tests.hostile.invariant import Broken
from tests.hostile.mill import Fill, Mill, in_one, in_pieces
from tests.hostile.scene import Scene

SECONDS = 2.0
BEYOND = "a share of the worker's time: it counts descriptors"


def mill(scene: Scene, fill: Fill, pairs: int = 1, size: int = 256) -> None:
    both = Mill(scene, fill, pairs, size)
    try:
        before = both.frames()
        scene.in_turns(both.turn, partial(both.turn, on=False), SECONDS, least=FAIR_SHARE)
        if both.frames() == before:
            raise Broken("I9", "not one of the costly frames passed")
    finally:
        both.close()


@lasting_attack(beyond_mini=BEYOND)
def frames_of_1020_pieces_of_a_byte(scene: Scene) -> None:
    mill(scene, in_pieces(1020, 1))


@lasting_attack(beyond_mini=BEYOND)
def frames_of_64_kib_in_one_buffer(scene: Scene) -> None:
    mill(scene, in_one(65500))


@lasting_attack(beyond_mini=BEYOND)
def frames_of_1020_pieces_on_128_queue_pairs(scene: Scene) -> None:
    """Shares are by port: many queue pairs have no more of the worker than one."""
    mill(scene, in_pieces(1020, 1), 128, 16)


@lasting_attack(beyond_mini=BEYOND)
def frames_of_64_kib_on_128_queue_pairs(scene: Scene) -> None:
    mill(scene, in_one(65500), 128, 16)
