"""Attacks that cost their guest little and the back-end much: whoever follows them to the end has no time for others.

The descriptors are legal, or are refused; either way a round of the poll loop stays short, in CPU time of its thread,
which no other load on the machine changes: what the honest pair's rate (I2) hangs on when there is more to do.
"""

from __future__ import annotations

import os
import struct

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESCRIPTOR, Piece
from tests.frontend import REGION, Request
from tests.hostile.attack import message_attack, packed_attack, split_attack
from tests.hostile.attacks_message import negotiated
from tests.hostile.invariant import Broken
from tests.hostile.scene import Scene, region

SECONDS = 0.5


class Costly:
    """A guest whose transmitq holds the same costly chain in every entry, and is refilled as it empties."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.size = scene.arena.longest_queue
        self.guest = scene.boot(queue_size=self.size, regions=[region(16 << 20)])

    def act(self) -> None:
        """As full as the ring may be."""
        queue = self.guest.transmitq
        queue.set_avail_index(queue.used_index + queue.size)
        self.scene.pause(0.005)

    def cost(self) -> None:
        queue = self.guest.transmitq
        queue.place(*[0] * queue.size)
        self.scene.rounds_stay_short(self.act, SECONDS)


@split_attack("no-time-for-others")
def a_full_ring_of_frames_in_as_many_pieces(scene: Scene) -> None:
    costly = Costly(scene)
    guest, addr = costly.guest, costly.guest.put(bytes(2 * costly.size))
    pieces = [DESCRIPTOR.pack(addr + 2 * i, 2, DESC_F_NEXT, i + 1) for i in range(costly.size - 1)]
    last = DESCRIPTOR.pack(addr, 2, 0, 0)
    guest.memory.write(guest.transmitq.descriptor_area, b"".join(pieces) + last)
    costly.cost()
    guest.frontend.get_vring_base(1)
    scene.frames_may_have_arrived()


@packed_attack("no-time-for-others")
def a_full_ring_of_tables_as_long_as_the_ring(scene: Scene) -> None:
    """A packed ring's chains share no descriptors, but they may share an indirect table."""
    size = scene.arena.longest_queue
    guest = scene.boot(queue_size=size, regions=[region(16 << 20)])
    queue, addr = guest.transmitq, guest.put(bytes(2 * size))
    table = guest.put(queue.table([Piece(addr + 2 * i, 2) for i in range(size)]))
    offered = 0

    def act() -> None:
        """As full as the ring may be."""
        nonlocal offered
        queue.take_used()
        for _ in range(queue.free):
            queue.put(0, table, 16 * size, offered % size, DESC_F_INDIRECT | queue.marks())
            queue.move_on(1)
            queue.adopt(offered % size, 1)
            offered += 1
        scene.pause(0.005)

    act()
    scene.rounds_stay_short(act, SECONDS)
    if offered == size:
        raise Broken("I9", "not one of the chains came back")
    guest.frontend.get_vring_base(1)
    scene.frames_may_have_arrived()


# Much address space for little memory


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
