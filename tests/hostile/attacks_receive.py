"""Receive buffers that are legal and odd, or too short for a frame: the victim, which sent it, gets its buffer back.

Those that break a rule stand in `rules`.
"""

from __future__ import annotations

from tests.driver import Piece
from tests.hostile.attack import ring_attack, split_attack
from tests.hostile.attacks_legal import adjacent
from tests.hostile.scene import Attacker, Scene, region

LONGEST = 65535 + 14
ONE = 1 << 20


@ring_attack("receive-room-trusted")
def a_receive_chain_with_room_for_the_header_alone(scene: Scene) -> None:
    guest = scene.boot()
    guest.send(*guest.room(12), queue=0)
    scene.victim.net.send(scene.frame())
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"oversize": 1})


@ring_attack("receive-room-trusted")
def a_receive_chain_one_byte_too_short_for_the_frame(scene: Scene) -> None:
    guest = scene.boot()
    guest.send(*guest.room(12, 40, 19), queue=0)
    scene.victim.net.send(scene.frame())
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"oversize": 1})


# Legal but odd


def arrives(scene: Scene, guest: Attacker, frame: bytes, *pieces: Piece) -> None:
    guest.send(*pieces, queue=0)
    scene.arrives(guest, frame)


@ring_attack("receive-room-trusted")
def a_receive_chain_of_single_bytes(scene: Scene) -> None:
    guest = scene.boot()
    arrives(scene, guest, scene.frame(), *guest.room(*[1] * 72))


@ring_attack("receive-room-trusted")
def receive_chains_cut_through_the_header(scene: Scene) -> None:
    guest = scene.boot()
    for sizes in ((11, 1, 60), (1, 11, 60), (4, 0, 4, 0, 4, 60), (0, 0, 13, 59, 0), (10, 62), (11, 2, 59)):
        arrives(scene, guest, scene.frame(), *guest.room(*sizes))


@ring_attack("long-chain-refused")
def a_receive_chain_of_exactly_queue_size_descriptors(scene: Scene) -> None:
    guest = scene.boot()
    arrives(scene, guest, scene.frame(600), *guest.room(*[1] * 200, *[100] * 56))


@ring_attack("room-to-spare")
def a_receive_chain_that_holds_the_frame_exactly(scene: Scene) -> None:
    guest = scene.boot()
    arrives(scene, guest, scene.frame(), *guest.room(12, 60))


@ring_attack("receive-room-trusted")
def the_longest_frame_into_one_buffer_and_into_many(scene: Scene) -> None:
    guest = scene.boot()
    arrives(scene, guest, scene.frame(LONGEST), *guest.room(12 + LONGEST))
    arrives(scene, guest, scene.frame(LONGEST), *guest.room(*[4096] * 17))


@ring_attack("no-region-span")
def a_receive_buffer_over_two_adjacent_regions(scene: Scene) -> None:
    guest = scene.boot(regions=adjacent(ONE, ONE))
    for before in (1, 11, 12, 13, 40, 71):
        addr = guest.memory.regions[1].guest_addr - before
        guest.writable.append((addr, 72))
        arrives(scene, guest, scene.frame(), Piece(addr, 72, writable=True))


@split_attack("indirect-only-first")
def a_receive_chain_that_ends_in_an_indirect_table(scene: Scene) -> None:
    guest = scene.boot()
    room = guest.room(5, 7, 30, 40)
    head = guest.receiveq.chain([*room[:2], guest.receiveq.indirect(room[2:])])
    guest.net.receive_buffers[head] = room
    guest.fire(head, queue=0)
    scene.arrives(guest, scene.frame())


@split_attack("twice-is-once")
def the_same_receive_head_twice(scene: Scene) -> None:
    guest = scene.boot()
    room = guest.room(100)
    head = guest.receiveq.chain(room)
    guest.fire(head, head, queue=0)
    for _ in range(2):
        guest.net.receive_buffers[head] = room
        scene.arrives(guest, scene.frame())


@ring_attack("page-aligned-offsets")
def a_receive_buffer_in_a_region_at_an_odd_offset_of_its_file(scene: Scene) -> None:
    guest = scene.boot(regions=[region(ONE, mmap_offset=0x8010)])
    arrives(scene, guest, scene.frame(), *guest.room(100))
