"""A ring that is broken again and again, and set up anew each time, on one connection."""

from __future__ import annotations

from tests.driver import Piece
from tests.hostile.attack import ring_attack
from tests.hostile.rules import END
from tests.hostile.scene import Scene


@ring_attack("no-recovery", "crash-on-bad-ring", "bad-ring-goes-on", "no-err-event")
def a_queue_broken_twenty_times_on_one_connection(scene: Scene) -> None:
    """Each time at another place of the ring."""
    guest = scene.boot()
    for number in range(20):
        guest.send(Piece(END, 72))
        scene.broken(guest)
        for _ in range(number * 7 % 30):
            scene.works(guest)
