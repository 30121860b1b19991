"""Two faults in one call: a frame too long for the receive chains, and a ring that breaks while more are taken.

Together they must count once. On the smallest rings.
"""

from __future__ import annotations

import itertools
from typing import Any

from tests.driver import DESC_F_WRITE
from tests.frontend import FEATURES, NET_F_MRG_RXBUF
from tests.hostile.attack import attack, ring_attack
from tests.hostile.invariant import Broken
from tests.hostile.rings import HostilePacked
from tests.hostile.scene import Attacker, Scene

SHORT, LONG = 100, 1000
"""Bytes of a receive buffer, and of a frame that does not fit into the ring's buffers."""
SIZES = (1, 2)


def one_more(guest: Attacker) -> None:
    """Break the ring by one more: a split ring has more available than entries then, a packed one a bad address."""
    queue: Any = guest.receiveq
    if isinstance(queue, HostilePacked):
        queue.put(0, 0, SHORT, 0, DESC_F_WRITE | queue.marks())
        queue.move_on(1)
    else:
        queue.set_avail_index(queue.avail_index + 1)


def full_of_short_buffers(scene: Scene, size: int) -> Attacker:
    """Fill it with buffers, except for the place of the one that is to break it."""
    guest = scene.boot(queue_size=size, features=FEATURES | NET_F_MRG_RXBUF)
    for _ in range(size - scene.format.packed):
        guest.send(*guest.room(SHORT), queue=0)
    return guest


for size in SIZES:

    def twofold(scene: Scene, size: int = size) -> None:
        """The sender's chains come back, each once, and no others; no memory of fwd is delivered."""
        guest = full_of_short_buffers(scene, size)
        scene.victim.net.send(scene.frame(LONG))
        scene.victim.net.wait_sent(scene.max_wait)
        one_more(guest)
        for _ in range(3):
            scene.victim.net.send(scene.frame(LONG))
        scene.victim.net.wait_sent(scene.max_wait)
        scene.broken(guest, 0)
        if guest.net.receive_all():
            raise Broken("I7", "a frame that no chain had room for arrived")

    ring_attack("bad-ring-goes-on", name=f"a_frame_too_long_for_a_ring_of_{size}_that_breaks")(twofold)


@attack(beyond_mini="a burst of frames: it takes one after the other", rings=("split", "packed"))
def a_ring_that_breaks_behind_frames_that_still_fit(scene: Scene) -> None:
    """Some frames of a burst are delivered, one meets the broken ring, the rest is dropped; none counts twice."""
    for fitting, features in itertools.product(range(4), (FEATURES, FEATURES | NET_F_MRG_RXBUF)):
        guest = scene.boot(queue_size=8, features=features)
        for _ in range(fitting):
            guest.send(*guest.room(2048), queue=0)
        for _ in range(8 - fitting - scene.format.packed):
            guest.send(*guest.room(SHORT), queue=0)
        one_more(guest)
        scene.victim.net.send_at_once(*(scene.frame(LONG) for _ in range(16)))
        scene.victim.net.wait_sent(scene.max_wait)
        guest.net.receive_all()
        scene.disconnect()
