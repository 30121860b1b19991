"""Attacks through the receiveq: the victim's frames meet bad buffers of the attacker, or legal odd ones.

A bad one breaks the attacker's receiveq (reaction B). The victim, which only sent a frame, gets its buffer back.
"""

from __future__ import annotations

from tests.driver import DESC_F_NEXT, DESC_F_WRITE, Piece
from tests.hostile.attack import ring_attack, split_attack
from tests.hostile.attacks_legal import adjacent
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region

END = GUEST_ADDR + (2 << 20)
LONGEST = 65535 + 14
ONE = 1 << 20


def broken_when_used(scene: Scene, guest: Attacker) -> None:
    """Send a frame from the victim into the bad chain: nothing arrives, and the victim goes on."""
    scene.victim.net.send(scene.frame())
    scene.broken(guest, 0)
    scene.victim.net.wait_sent(scene.max_wait)


def broken_by(scene: Scene, guest: Attacker, *pieces: Piece) -> None:
    guest.send(*pieces, queue=0)
    broken_when_used(scene, guest)


# Heads, indices, links


@split_attack("no-head-check")
def a_receive_head_beyond_the_queue(scene: Scene) -> None:
    guest = scene.boot()
    guest.receiveq.write_descriptor(256, guest.put(bytes(2048)), 2048, DESC_F_WRITE)
    guest.fire(256, queue=0)
    broken_when_used(scene, guest)


@split_attack("no-avail-jump-check")
def an_avail_index_of_the_receiveq_that_jumps(scene: Scene) -> None:
    guest = scene.boot()
    guest.receiveq.place(*[guest.receiveq.chain([Piece(guest.put(bytes(2048)), 2048, writable=True)])] * 256)
    guest.fire(queue=0, index=guest.receiveq.avail_index + 300)
    broken_when_used(scene, guest)


@split_attack("no-next-check")
def a_next_beyond_the_queue_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    guest.receiveq.write_descriptor(256, guest.put(bytes(2048)), 2048, DESC_F_WRITE)
    guest.receiveq.write_descriptor(0, guest.put(bytes(12)), 12, DESC_F_WRITE | DESC_F_NEXT, 256)
    guest.fire(0, queue=0)
    broken_when_used(scene, guest)


@split_attack("no-loop-bound")
def a_receive_chain_that_loops_with_no_bytes(scene: Scene) -> None:
    guest = scene.boot()
    guest.receiveq.write_descriptor(9, GUEST_ADDR, 0, DESC_F_WRITE | DESC_F_NEXT, 9)
    guest.fire(9, queue=0)
    broken_when_used(scene, guest)


@split_attack("no-loop-bound")
def a_receive_chain_that_loops_over_a_good_buffer(scene: Scene) -> None:
    guest = scene.boot()
    guest.receiveq.write_descriptor(9, guest.put(bytes(16)), 16, DESC_F_WRITE | DESC_F_NEXT, 9)
    guest.fire(9, queue=0)
    broken_when_used(scene, guest)


# Buffers

for words, address, length, bug in (
    ("of_0", 0, 2048, "nowhere-is-zeros"),
    ("of_2_to_the_64_less_1", 2**64 - 1, 2048, "range-by-addition"),
    ("that_wraps_to_the_region", 2**64 - 8, GUEST_ADDR + 2048, "range-by-addition"),
    ("that_ends_one_byte_beyond_the_region", END - 2047, 2048, "sloppy-range"),
    ("right_behind_the_region", END, 2048, "behind-is-inside"),
    ("of_4_GiB_less_1", GUEST_ADDR + 0x100000, 0xFFFFFFFF, "sloppy-range"),
):

    def at_address(scene: Scene, address: int = address, length: int = length) -> None:
        broken_by(scene, scene.boot(), Piece(address, length, writable=True))

    def behind_a_header(scene: Scene, address: int = address, length: int = length) -> None:
        guest = scene.boot()
        good = Piece(guest.put(bytes(12)), 12, writable=True)
        broken_by(scene, guest, good, Piece(address, length, writable=True))

    ring_attack(bug, name=f"a_receive_buffer_{words}")(at_address)
    ring_attack(bug, name=f"a_second_receive_buffer_{words}")(behind_a_header)


@ring_attack("write-flag-ignored")
def a_readable_descriptor_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    broken_by(scene, guest, guest.piece(bytes(2048)))


@ring_attack("write-flag-ignored")
def a_readable_descriptor_behind_writable_ones_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    broken_by(scene, guest, Piece(guest.put(bytes(12)), 12, writable=True), guest.piece(bytes(2048)))


@ring_attack("write-flag-ignored")
def a_readable_descriptor_before_writable_ones_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    broken_by(scene, guest, guest.piece(bytes(12)), Piece(guest.put(bytes(2048)), 2048, writable=True))


@ring_attack("receive-room-trusted")
def receive_chains_of_every_total_from_0_to_11_bytes(scene: Scene) -> None:
    """Chains shorter than the header that must fit into them."""
    guest = scene.boot()
    for total in range(12):
        broken_by(scene, guest, Piece(guest.put(bytes(total)), total, writable=True))


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


@ring_attack("odd-table")
def an_indirect_table_of_17_bytes_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    table = guest.receiveq.indirect([Piece(guest.put(bytes(2048)), 2048, writable=True)])
    broken_by(scene, guest, table._replace(bytes=17))


@split_attack("nested-indirect")
def an_indirect_table_in_an_indirect_table_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    inner = guest.receiveq.indirect([Piece(guest.put(bytes(2048)), 2048, writable=True)])
    broken_by(scene, guest, guest.receiveq.indirect([inner]))


@ring_attack("sloppy-range")
def a_bad_last_buffer_in_an_indirect_table_in_the_receiveq(scene: Scene) -> None:
    guest = scene.boot()
    pieces = [Piece(guest.put(bytes(2048)), 2048, writable=True), Piece(END - 1, 2, writable=True)]
    broken_by(scene, guest, guest.receiveq.indirect(pieces))


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
