"""Attacks on the structure of the transmitq: heads, indices, chains, addresses, indirect tables.

Virtio 1.2, section 2.7. Each breaks that queue (reaction B), and nothing else.
"""

from __future__ import annotations

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESCRIPTOR, Piece
from tests.frontend import F_PROTOCOL_FEATURES, F_VERSION_1
from tests.hostile.attack import ring_attack, split_attack
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region

TOP = 2**64


def broken_by(scene: Scene, guest: Attacker, *pieces: Piece) -> None:
    """A chain of these pieces breaks the queue."""
    guest.send(*pieces)
    scene.broken(guest)


# Heads and indices


def head_beyond(scene: Scene, head: int) -> None:
    guest = scene.boot()
    guest.decoy(guest.transmitq, head, scene.frame())
    guest.fire(head)
    scene.broken(guest)


@split_attack("no-head-check", "crash-on-bad-ring", "bad-ring-goes-on", "no-err-event", "no-recovery")
def a_head_equal_to_the_queue_size(scene: Scene) -> None:
    head_beyond(scene, 256)


@split_attack("no-head-check")
def a_head_of_65535(scene: Scene) -> None:
    head_beyond(scene, 0xFFFF)


def index_jump(scene: Scene, jump: int) -> None:
    guest = scene.boot()
    # A device that trusts the index finds a frame in every entry.
    frame = guest.transmitq.chain([guest.piece(guest.packet(scene.frame()))])
    guest.transmitq.place(*[frame] * guest.transmitq.size)
    guest.fire(index=guest.transmitq.avail_index + jump)
    scene.broken(guest)


@split_attack("no-avail-jump-check")
def an_avail_index_one_further_than_the_queue_is_long(scene: Scene) -> None:
    index_jump(scene, 257)


@split_attack("no-avail-jump-check")
def an_avail_index_that_jumps_half_way_round(scene: Scene) -> None:
    index_jump(scene, 0x8000)


@split_attack("no-avail-jump-check")
def an_avail_index_that_goes_backwards(scene: Scene) -> None:
    index_jump(scene, -1)


# Links


@split_attack("no-next-check")
def a_next_equal_to_the_queue_size(scene: Scene) -> None:
    next_beyond(scene, 256)


@split_attack("no-next-check")
def a_next_of_65535(scene: Scene) -> None:
    next_beyond(scene, 0xFFFF)


def next_beyond(scene: Scene, next: int) -> None:
    guest = scene.boot()
    guest.decoy(guest.transmitq, next, scene.frame())
    header = guest.piece(guest.net.header())
    guest.transmitq.write_descriptor(7, header.addr, header.bytes, DESC_F_NEXT, next)
    guest.fire(7)
    scene.broken(guest)


def loop(scene: Scene, bytes: int, *indices: int) -> None:
    guest = scene.boot()
    addr = guest.put(guest.packet(scene.frame()))
    for index, after in zip(indices, [*indices[1:], indices[0]], strict=True):
        guest.transmitq.write_descriptor(index, addr, bytes, DESC_F_NEXT, after)
    guest.fire(indices[0])
    scene.broken(guest)


@split_attack("no-loop-bound")
def a_descriptor_that_leads_to_itself_with_no_bytes(scene: Scene) -> None:
    loop(scene, 0, 3)


@split_attack("no-loop-bound")
def a_descriptor_that_leads_to_itself(scene: Scene) -> None:
    loop(scene, 72, 0)


@split_attack("no-loop-bound")
def two_descriptors_that_lead_to_each_other_with_no_bytes(scene: Scene) -> None:
    loop(scene, 0, 1, 255)


@split_attack("no-loop-bound")
def a_loop_over_the_whole_queue(scene: Scene) -> None:
    loop(scene, 1, *range(256))


# Addresses

END = GUEST_ADDR + (2 << 20)

for words, address, length, bug in (
    ("of_0", 0, 72, "nowhere-is-zeros"),
    ("of_2_to_the_64_less_1", TOP - 1, 72, "range-by-addition"),
    ("that_wraps_to_the_region", TOP - 8, GUEST_ADDR + 80, "range-by-addition"),
    ("whose_end_wraps_to_0", TOP - 72, 72, "range-by-addition"),
    ("one_byte_before_the_region", GUEST_ADDR - 1, 72, "range-by-addition"),
    ("one_byte_beyond_the_region", END - 71, 72, "sloppy-range"),
    ("right_behind_the_region", END, 72, "behind-is-inside"),
    ("with_a_length_of_4_GiB_less_1", GUEST_ADDR, 0xFFFFFFFF, "sloppy-range"),
    ("with_a_length_of_2_GiB", GUEST_ADDR, 0x80000000, "sloppy-range"),
):

    def at_address(scene: Scene, address: int = address, length: int = length) -> None:
        broken_by(scene, scene.boot(), Piece(address, length))

    def behind_a_header(scene: Scene, address: int = address, length: int = length) -> None:
        guest = scene.boot()
        broken_by(scene, guest, guest.piece(guest.packet(scene.frame())), Piece(address, length))

    ring_attack(bug, name=f"a_buffer_{words}")(at_address)
    ring_attack(bug, name=f"a_second_buffer_{words}")(behind_a_header)


@ring_attack("sloppy-range")
def a_buffer_that_begins_in_memory_and_ends_in_a_hole(scene: Scene) -> None:
    first, second = region(1 << 20), region(1 << 20, GUEST_ADDR + (1 << 20) + 4096)
    guest = scene.boot(regions=[first, second])
    broken_by(scene, guest, Piece(second.guest_addr - 4096 - 36, 72))


@ring_attack("nowhere-is-zeros")
def a_buffer_that_begins_and_ends_in_memory_with_a_hole_between(scene: Scene) -> None:
    first, second = region(1 << 20), region(1 << 20, GUEST_ADDR + (1 << 20) + 4096)
    guest = scene.boot(regions=[first, second])
    broken_by(scene, guest, Piece(second.guest_addr - 4096 - 36, 4096 + 72))


# Direction


@ring_attack("write-flag-ignored")
def a_writable_descriptor_in_the_transmitq(scene: Scene) -> None:
    guest = scene.boot()
    broken_by(scene, guest, guest.piece(guest.packet(scene.frame()), writable=True))


@ring_attack("write-flag-ignored")
def a_writable_descriptor_behind_readable_ones_in_the_transmitq(scene: Scene) -> None:
    guest = scene.boot()
    broken_by(scene, guest, guest.piece(guest.packet(scene.frame())), guest.piece(bytes(64), writable=True))


@split_attack("write-flag-ignored")
def a_writable_descriptor_in_an_indirect_table(scene: Scene) -> None:
    guest = scene.boot()
    pieces = [guest.piece(guest.packet(scene.frame())), guest.piece(bytes(64), writable=True)]
    broken_by(scene, guest, guest.transmitq.indirect(pieces))


# Indirect tables. Section 2.7.5.3.


def table_of_bytes(scene: Scene, bytes: int) -> None:
    guest = scene.boot()
    # The table has a good descriptor, whatever its length says.
    table = guest.transmitq.indirect([guest.piece(guest.packet(scene.frame()))])
    broken_by(scene, guest, table._replace(bytes=bytes))


@ring_attack("odd-table")
def an_indirect_table_of_no_bytes(scene: Scene) -> None:
    table_of_bytes(scene, 0)


@ring_attack("odd-table")
def an_indirect_table_of_8_bytes(scene: Scene) -> None:
    table_of_bytes(scene, 8)


@ring_attack("odd-table")
def an_indirect_table_of_17_bytes(scene: Scene) -> None:
    table_of_bytes(scene, 17)


@ring_attack("odd-table")
def an_indirect_table_of_4_GiB_less_1(scene: Scene) -> None:
    table_of_bytes(scene, 0xFFFFFFFF)


@ring_attack("sloppy-range")
def an_indirect_table_of_4_GiB_less_16(scene: Scene) -> None:
    table_of_bytes(scene, 0xFFFFFFF0)


@ring_attack("behind-is-inside")
def an_indirect_table_that_ends_outside_memory(scene: Scene) -> None:
    guest = scene.boot()
    pieces = guest.pieces(guest.packet(scene.frame()), [12])
    own = guest.memory.regions[0]
    guest.memory.put_at(own, own.at(END - 16), guest.transmitq.table(pieces))
    broken_by(scene, guest, Piece(END - 16, 32, indirect=True))


@ring_attack("behind-is-inside")
def an_indirect_table_outside_memory(scene: Scene) -> None:
    guest = scene.boot()
    packet = guest.piece(guest.packet(scene.frame()))
    own = guest.memory.regions[0]
    guest.memory.put_at(own, own.at(END), guest.transmitq.table([packet]))
    broken_by(scene, guest, Piece(END, 16, indirect=True))


@split_attack("nested-indirect")
def an_indirect_table_in_an_indirect_table(scene: Scene) -> None:
    guest = scene.boot()
    inner = guest.transmitq.indirect([guest.piece(guest.packet(scene.frame()))])
    broken_by(scene, guest, guest.transmitq.indirect([inner]))


@split_attack("nested-indirect")
def an_indirect_table_that_refers_to_itself(scene: Scene) -> None:
    guest = scene.boot()
    addr = guest.memory.take(16)
    guest.memory.write(addr, DESCRIPTOR.pack(addr, 16, DESC_F_INDIRECT, 0))
    broken_by(scene, guest, Piece(addr, 16, indirect=True))


@ring_attack("indirect-and-next")
def an_indirect_descriptor_with_a_next(scene: Scene) -> None:
    guest = scene.boot()
    table = guest.transmitq.indirect([guest.piece(guest.packet(scene.frame()))])
    broken_by(scene, guest, table, guest.piece(bytes(64)))


@ring_attack("indirect-unasked")
def an_indirect_descriptor_without_the_feature(scene: Scene) -> None:
    guest = scene.boot(features=F_VERSION_1 | F_PROTOCOL_FEATURES)
    broken_by(scene, guest, guest.transmitq.indirect([guest.piece(guest.packet(scene.frame()))]))


def table_with_next(scene: Scene, next: int) -> None:
    """A table of two, whose second descriptor leads to `next`, where there is a good descriptor."""
    guest = scene.boot()
    header, frame = guest.piece(guest.net.header()), guest.piece(scene.frame())
    empty = guest.piece(b"")
    table = DESCRIPTOR.pack(header.addr, header.bytes, DESC_F_NEXT, 1)
    table += DESCRIPTOR.pack(empty.addr, 0, DESC_F_NEXT, next)
    addr = guest.put(table + bytes(16))
    if next >= 2:
        guest.memory.write(addr + 16 * next, DESCRIPTOR.pack(frame.addr, frame.bytes, 0, 0))
    broken_by(scene, guest, Piece(addr, 32, indirect=True))


@split_attack("no-table-bound")
def a_next_in_an_indirect_table_that_leads_right_behind_it(scene: Scene) -> None:
    table_with_next(scene, 2)


@split_attack("no-table-bound")
def a_next_in_an_indirect_table_of_65535(scene: Scene) -> None:
    table_with_next(scene, 0xFFFF)


@split_attack("no-loop-bound")
def a_loop_in_an_indirect_table(scene: Scene) -> None:
    table_with_next(scene, 0)


@split_attack("no-loop-bound")
def a_descriptor_in_an_indirect_table_that_leads_to_itself(scene: Scene) -> None:
    table_with_next(scene, 1)


@ring_attack("sloppy-range")
def a_buffer_outside_memory_in_an_indirect_table(scene: Scene) -> None:
    guest = scene.boot()
    pieces = [guest.piece(guest.packet(scene.frame())), Piece(END - 8, 64)]
    broken_by(scene, guest, guest.transmitq.indirect(pieces))


@split_attack("no-recovery")
def a_queue_broken_twenty_times_on_one_connection(scene: Scene) -> None:
    guest = scene.boot()
    for _ in range(20):
        guest.transmitq.write_descriptor(0, GUEST_ADDR, 0, DESC_F_NEXT, 0)
        guest.fire(0)
        scene.broken(guest)
