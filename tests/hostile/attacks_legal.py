"""Legal but odd inputs, which a careless back-end refuses or confuses. Each frame must be delivered intact."""

from __future__ import annotations

from collections.abc import Sequence

from tests.driver import Piece, Region, Used
from tests.hostile.attack import attack, ring_attack, split_attack
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region


def delivered(scene: Scene, guest: Attacker, frame: bytes, *pieces: Piece) -> None:
    scene.delivered(guest, frame, guest.send(*pieces))


# Headers in pieces: virtio 1.2, section 2.7.4, "message framing".

CUTS = {
    "in_12_single_bytes": ([1] * 12, "layout-assumed"),
    "in_11_bytes_and_1": ([11, 1], "layout-assumed"),
    "in_1_byte_and_11": ([1, 11], "layout-assumed"),
    "in_4_and_4_and_4_with_empty_pieces_between": ([4, 0, 4, 0, 0, 4, 0], "empty-piece-ends"),
    "behind_empty_pieces": ([0, 0, 0, 12], "empty-piece-ends"),
    "that_ends_in_the_middle_of_the_last_piece": ([10], "layout-assumed"),
    "and_frame_in_pieces_of_one_byte": ([1] * 71, "layout-assumed"),
    "with_one_byte_of_the_frame": ([13], "layout-assumed"),
    "and_frame_in_one_piece_and_nothing_behind": ([72], "layout-assumed"),
}

for words, (sizes, bug) in CUTS.items():

    def cut(scene: Scene, sizes: Sequence[int] = tuple(sizes)) -> None:
        guest = scene.boot()
        frame = scene.frame()
        delivered(scene, guest, frame, *guest.pieces(guest.packet(frame), sizes))

    def cut_in_a_table(scene: Scene, sizes: Sequence[int] = tuple(sizes)) -> None:
        guest = scene.boot()
        frame = scene.frame()
        delivered(scene, guest, frame, guest.transmitq.indirect(guest.pieces(guest.packet(frame), sizes)))

    ring_attack(bug, name=f"a_header_{words}")(cut)
    ring_attack(bug, name=f"an_indirect_table_with_a_header_{words}")(cut_in_a_table)


@ring_attack("unused-fields-checked")
def a_header_full_of_what_its_flags_and_gso_type_do_not_use(scene: Scene) -> None:
    """Section 5.1.6.2.2: unknown flag bits are ignored, and so are fields that no flag makes valid."""
    guest = scene.boot()
    frame = scene.frame()
    delivered(scene, guest, frame, guest.piece(guest.net.header(0xF0, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF) + frame))


@ring_attack("header-passed-on", "delivered-uncounted")
def a_header_whose_unused_fields_are_not_for_the_peer(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame()
    delivered(scene, guest, frame, guest.piece(guest.net.header(0, 0, 0x1234, 0x5678, 0x9ABC, 0xDEF0) + frame))


# Lengths


@ring_attack("short-frames-refused")
def the_shortest_frame(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame(14)
    delivered(scene, guest, frame, guest.piece(guest.packet(frame)))


@ring_attack("room-to-spare")
def a_frame_that_fills_the_peers_receive_buffer_to_the_last_byte(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame(2048 - 12)
    delivered(scene, guest, frame, guest.piece(guest.packet(frame)))


# Chains


@ring_attack("long-chain-refused")
def a_chain_of_exactly_queue_size_descriptors(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame(600)
    delivered(scene, guest, frame, *guest.pieces(guest.packet(frame), [1] * 255))


@ring_attack("long-chain-refused")
def a_queue_of_one_descriptor(scene: Scene) -> None:
    guest = scene.boot(queue_size=1)
    for _ in range(3):
        frame = scene.frame()
        delivered(scene, guest, frame, guest.piece(guest.packet(frame)))


@ring_attack("long-chain-refused")
def a_queue_of_two_descriptors_used_as_one_chain(scene: Scene) -> None:
    guest = scene.boot(queue_size=2)
    for _ in range(5):
        frame = scene.frame()
        delivered(scene, guest, frame, *guest.pieces(guest.packet(frame), [12]))


@ring_attack("small-queues-only")
def a_queue_of_32768_descriptors(scene: Scene) -> None:
    guest = scene.boot(queue_size=32768, regions=[region(4 << 20)])
    for _ in range(5):
        frame = scene.frame()
        delivered(scene, guest, frame, *guest.pieces(guest.packet(frame), [12]))


@split_attack("stale-next")
def a_next_that_leads_nowhere_in_a_descriptor_that_has_none(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame()
    packet = guest.piece(guest.packet(frame))
    head = guest.transmitq.chain([packet])
    guest.transmitq.write_descriptor(head, packet.addr, packet.bytes, 0, 0xFFFF)
    guest.fire(head)
    scene.delivered(guest, frame, head)


@attack("twice-is-once")
def the_same_head_twice_before_it_came_back(scene: Scene) -> None:
    """A driver may not do this, but detecting it would cost too much: both are delivered, both come back."""
    guest = scene.boot()
    frame = scene.frame()
    head = guest.transmitq.chain([guest.piece(guest.packet(frame))])
    guest.fire(head, head)
    assert [scene.victim.net.receive(scene.max_wait) for _ in range(2)] == [frame, frame]
    assert guest.transmitq.wait_used(2, scene.max_wait) == [Used(head, 0)] * 2
    guest.transmitq.reset(guest.transmitq.avail_index)
    scene.works(guest)


# Indirect tables. Section 2.7.5.3.


@split_attack("indirect-only-first")
def direct_descriptors_and_then_an_indirect_one(scene: Scene) -> None:
    """Section 2.7.5.3.2: normal descriptors and one indirect one at their end."""
    guest = scene.boot()
    frame = scene.frame()
    pieces = guest.pieces(guest.packet(frame), [5, 7, 20])
    delivered(scene, guest, frame, *pieces[:2], guest.transmitq.indirect(pieces[2:]))


@ring_attack("indirect-write-flag")
def an_indirect_descriptor_marked_writable(scene: Scene) -> None:
    """Section 2.7.5.3.2: the device ignores the flag where it refers to a table."""
    guest = scene.boot()
    frame = scene.frame()
    table = guest.transmitq.indirect(guest.pieces(guest.packet(frame), [12]))
    delivered(scene, guest, frame, table._replace(writable=True))


@ring_attack("table-as-long-as-queue")
def an_indirect_table_longer_than_the_queue(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame(600)
    delivered(scene, guest, frame, guest.transmitq.indirect(guest.pieces(guest.packet(frame), [1] * 400)))


@ring_attack("aligned-tables-only")
def an_indirect_table_at_an_odd_address(scene: Scene) -> None:
    guest = scene.boot()
    frame = scene.frame()
    table = guest.transmitq.table(guest.pieces(guest.packet(frame), [12, 30]))
    addr = guest.memory.take(len(table) + 16) + 1
    guest.memory.write(addr, table)
    delivered(scene, guest, frame, Piece(addr, len(table), indirect=True))


# Regions: ranges over several that are adjacent.

ONE = 1 << 20


def adjacent(*sizes: int) -> list[Region]:
    """Regions that are adjacent for the guest, each in a file of its own with secrets around it."""
    starts = [GUEST_ADDR + sum(sizes[:i]) for i in range(len(sizes))]
    return [region(size, start) for size, start in zip(sizes, starts, strict=True)]


for before in (1, 11, 12, 13, 71):

    def span(scene: Scene, before: int = before) -> None:
        guest = scene.boot(regions=adjacent(ONE, ONE))
        frame = scene.frame()
        addr = guest.memory.regions[1].guest_addr - before
        guest.memory.write(addr, guest.packet(frame))
        delivered(scene, guest, frame, Piece(addr, 72))

    ring_attack("no-region-span", name=f"a_buffer_over_two_adjacent_regions_after_{before}_bytes")(span)


@ring_attack("no-region-span")
def a_buffer_over_three_adjacent_regions(scene: Scene) -> None:
    guest = scene.boot(regions=adjacent(ONE, 4096, ONE))
    frame = scene.frame(5000 - 3400)
    addr = guest.memory.regions[1].guest_addr - 500
    guest.memory.write(addr, guest.packet(frame))
    delivered(scene, guest, frame, Piece(addr, 12 + len(frame)))
    long = scene.frame(8000)
    guest.memory.write(addr, guest.packet(long))
    scene.dropped(guest, "oversize", guest.send(Piece(addr, 12 + len(long))))


@ring_attack("no-region-span")
def an_indirect_table_over_two_adjacent_regions(scene: Scene) -> None:
    guest = scene.boot(regions=adjacent(ONE, ONE))
    frame = scene.frame()
    for before in (16, 24, 33):
        table = guest.transmitq.table(guest.pieces(guest.packet(frame), [12, 30]))
        addr = guest.memory.regions[1].guest_addr - before
        guest.memory.write(addr, table)
        delivered(scene, guest, frame, Piece(addr, len(table), indirect=True))


@ring_attack("no-region-span")
def regions_announced_in_the_wrong_order(scene: Scene) -> None:
    guest = scene.boot(regions=adjacent(ONE, ONE)[::-1])
    frame = scene.frame()
    addr = max(r.guest_addr for r in guest.memory.regions) - 30
    guest.memory.write(addr, guest.packet(frame))
    delivered(scene, guest, frame, Piece(addr, 72))


@ring_attack("page-aligned-offsets")
def a_region_at_an_odd_offset_of_its_file(scene: Scene) -> None:
    guest = scene.boot(regions=[region(ONE, mmap_offset=0x8010)])
    scene.works(guest)


@ring_attack("page-aligned-offsets")
def two_regions_in_one_file_the_other_way_round(scene: Scene) -> None:
    """The second half of the file first, at an offset that is no multiple of a page."""
    first = region(ONE, file_bytes=3 * ONE, mmap_offset=ONE + 48)
    second = region(ONE, GUEST_ADDR + ONE, fd=first.fd, mmap_offset=48)
    guest = scene.boot(regions=[first, second])
    frame = scene.frame()
    addr = second.guest_addr - 20
    guest.memory.write(addr, guest.packet(frame))
    delivered(scene, guest, frame, Piece(addr, 72))


@ring_attack("low-addresses-only")
def a_region_one_page_below_the_last_address(scene: Scene) -> None:
    top = 2**64 - 4096
    guest = scene.boot(regions=[region(), region(ONE, top - ONE, user_addr=0x7D00_0000_0000)])
    frame = scene.frame()
    addr = top - 72
    guest.memory.write(addr, guest.packet(frame))
    delivered(scene, guest, frame, Piece(addr, 72))
