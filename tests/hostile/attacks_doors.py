"""Floods of messages that change nothing, or change it back: they must cost the worker next to nothing. I2."""

from __future__ import annotations

import itertools
import struct

from tests.frontend import REGION, U64, VERSION, VRING_STATE, Request
from tests.hostile.attack import lasting_attack
from tests.hostile.attacks_sustained import SECONDS, Pace, flood
from tests.hostile.scene import Attacker, Scene


@lasting_attack("slow-door", rings=("packed",))
def rings_given_a_kick_without_end(scene: Scene) -> None:
    """A new kick starts a stopped ring; this ring runs already."""
    kick = scene.eventfd()
    flood(scene, lambda guest, _: guest.frontend.tell(Request.SET_VRING_KICK, U64.pack(1), [kick]))


@lasting_attack(beyond_mini="regions that are many: it has eight slots")
def regions_added_and_removed_without_end(scene: Scene) -> None:
    """With four hundred others, all of which each change looks at."""
    own = scene.own_region(1 << 40)

    def entry(slot: int) -> bytes:
        return U64.pack(0) + REGION.pack((1 << 40) + slot * 8192, 4096, (1 << 40) + slot * 8192, slot % 256 * 4096)

    prepared: set[int] = set()

    def change(guest: Attacker, _: int) -> None:
        if id(guest) not in prepared:
            prepared.add(id(guest))
            for slot in range(400):
                guest.frontend.tell(Request.ADD_MEM_REG, entry(slot), [own.fd])
        guest.frontend.tell(Request.ADD_MEM_REG, entry(400), [own.fd])
        guest.frontend.tell(Request.REM_MEM_REG, entry(400))

    flood(scene, change)


# Messages whose answers are not waited for


class Unheard:
    """A front-end that writes messages as fast as they are taken, and discards the answers."""

    BATCH = 20

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._guest = scene.boot(protocol_features=0)
        self._numbers = itertools.count()

    def send(self, *messages: tuple[int, bytes]) -> None:
        """Send a batch of these in turn, and read the answer to a last one."""
        frontend = self._guest.frontend
        data = b"".join(self._message(request, payload) for request, payload in messages)
        frontend.send_raw(data * (self.BATCH // len(messages)))
        frontend.ask(Request.GET_FEATURES)

    @staticmethod
    def _message(request: int, payload: bytes) -> bytes:
        return struct.pack("<III", request, VERSION, len(payload)) + payload

    def works(self) -> None:
        self._guest.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(1, 1))
        self._guest.frontend.ask(Request.GET_FEATURES)
        self._scene.forget_drops()
        self._scene.works(self._guest)


def unheard(scene: Scene, *messages: tuple[int, bytes]) -> None:
    guest = Unheard(scene)
    nothing = (Request.SET_OWNER, b"")
    pace = Pace(lambda: guest.send(*messages), lambda: guest.send(nothing, nothing))
    scene.in_turns(pace.bad, pace.quiet, SECONDS)
    guest.works()


@lasting_attack("slow-door")
def a_ring_enabled_that_is_enabled_already(scene: Scene) -> None:
    """Nothing changes, so no worker need come to the door."""
    unheard(scene, (Request.SET_VRING_ENABLE, VRING_STATE.pack(1, 1)))


@lasting_attack("slow-door", rings=("packed",))
def a_ring_enabled_and_disabled_in_batches(scene: Scene) -> None:
    messages = [(Request.SET_VRING_ENABLE, VRING_STATE.pack(1, on)) for on in (0, 1)]
    unheard(scene, *messages)
