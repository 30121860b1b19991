"""Attacks that cost their guest little, but much time of a back-end that follows all descriptors to the end.

The descriptors are legal, or are refused; in both cases the honest flood keeps its share of the worker (I2).
"""

from __future__ import annotations

import os
import struct

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESCRIPTOR, Piece
from tests.frontend import REGION, Request
from tests.hostile.attack import lasting_attack, message_attack
from tests.hostile.attacks_message import negotiated
from tests.hostile.invariant import Broken
from tests.hostile.rings import PACKED
from tests.hostile.scene import Scene, region

SECONDS, PAUSE = 0.5, 0.005
WHOLE_ROUNDS = 512
"""Chains that a worker with other ports finishes within a moment."""


def ahead(scene: Scene) -> int:
    """How many chains to offer: with the flood, no more than are finished when the next quiet turn begins."""
    return WHOLE_ROUNDS if scene.arena.beside_flood else scene.arena.longest_queue


class Costly:
    """A guest whose transmitq holds the same costly chain in every entry, and is refilled as it empties."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.size = scene.arena.longest_queue
        self.guest = scene.boot(queue_size=self.size, regions=[region(16 << 20)])

    def act(self) -> None:
        """Fill the ring, or offer enough for the time until the next call."""
        queue = self.guest.transmitq
        queue.set_avail_index(queue.used_index + ahead(self.scene))
        self.scene.pause(PAUSE)

    def rest(self) -> None:
        """As much harmless work."""
        queue = self.guest.transmitq
        queue.set_avail_index((queue.used_index, queue.avail_index)[1])
        self.scene.pause(PAUSE)

    def cost(self) -> None:
        queue = self.guest.transmitq
        queue.place(*[0] * queue.size)
        self.scene.costs_its_share(self.act, self.rest, SECONDS)


@lasting_attack("no-time-for-others")
def a_full_ring_of_frames_in_as_many_pieces(scene: Scene) -> None:
    costly = Costly(scene)
    guest, addr = costly.guest, costly.guest.put(bytes(2 * costly.size))
    pieces = [DESCRIPTOR.pack(addr + 2 * i, 2, DESC_F_NEXT, i + 1) for i in range(costly.size - 1)]
    last = DESCRIPTOR.pack(addr, 2, 0, 0)
    guest.memory.write(guest.transmitq.descriptor_area, b"".join(pieces) + last)
    costly.cost()
    guest.frontend.get_vring_base(1)
    scene.frames_may_have_arrived()


@lasting_attack("no-time-for-others", rings=PACKED[:1])
def a_full_ring_of_tables_as_long_as_the_ring(scene: Scene) -> None:
    """A packed ring's chains share no descriptors, but they may share an indirect table."""
    size = scene.arena.longest_queue
    guest = scene.boot(queue_size=size, regions=[region(16 << 20)])
    queue, addr = guest.transmitq, guest.put(bytes(2 * size))
    table = guest.put(queue.table([Piece(addr + 2 * i, 2) for i in range(size)]))
    offered = 0

    def act() -> None:
        """Fill the ring, or offer enough."""
        nonlocal offered
        queue.take_used()
        for _ in range(queue.free - size + ahead(scene)):
            queue.put(0, table, 16 * size, offered % size, DESC_F_INDIRECT | queue.marks())
            queue.move_on(1)
            queue.adopt(offered % size, 1)
            offered += 1
        scene.pause(PAUSE)

    act()
    scene.costs_its_share(act, lambda: scene.pause(PAUSE), SECONDS)
    if offered == ahead(scene):
        raise Broken("I9", "not one of the chains came back")
    guest.frontend.get_vring_base(1)
    scene.frames_may_have_arrived()


# Large regions with little memory


@message_attack("eager-mapping")
def a_region_of_a_terabyte_of_holes(scene: Scene) -> None:
    """Taken or refused, but not filled."""
    fd = scene.adopt(os.memfd_create("attacker", os.MFD_CLOEXEC))
    os.ftruncate(fd, 1 << 40)
    before = scene.arena.backend.resident_bytes()
    frontend = negotiated(scene, acks=True)
    table = struct.pack("<II", 1, 0) + REGION.pack(1 << 40, 1 << 40, 1 << 40, 0)
    scene.tolerated(frontend, Request.SET_MEM_TABLE, table, [fd])
    if scene.arena.backend.resident_bytes() - before > 64 << 20 or os.fstat(fd).st_blocks:
        raise Broken("I5", "a file of holes was filled")
