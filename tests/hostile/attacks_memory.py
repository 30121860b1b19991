"""Attacks with the memory table: bad regions, tables changed under traffic, files that become shorter."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import time

from tests.driver import Piece, Used
from tests.frontend import REGION, U64, Closed, Request, mem_region, mem_table, single_region
from tests.hostile.attack import message_attack, ring_attack
from tests.hostile.attacks_message import negotiated
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region
from tests.hostile.watch import WatchedMemory

ONE = 1 << 20
TOP = 2**64
PAGE = 4096

# Regions that cannot be. Fields: guest address, size, user address, mmap offset; the file has 2 MiB and 64 KiB.

BAD_REGIONS = {
    "of_no_bytes": ((GUEST_ADDR, 0, ONE, 0), "no-fstat"),
    "one_byte_larger_than_its_file": ((GUEST_ADDR, (2 << 20) + 65536 + 1, ONE, 0), "no-fstat"),
    "that_ends_one_byte_behind_its_file": ((GUEST_ADDR, 2 << 20, ONE, 65537), "no-fstat"),
    "that_begins_behind_its_file": ((GUEST_ADDR, PAGE, ONE, 1 << 40), "no-fstat"),
    "of_2_to_the_64_less_1_bytes": ((0, TOP - 1, 0, 0), "no-fstat"),
    "of_half_the_address_space": ((0, TOP // 2, 0, 0), "no-fstat"),
    "whose_guest_addresses_wrap": ((TOP - PAGE, 2 * PAGE, ONE, 0), "overlap"),
    "whose_user_addresses_wrap": ((GUEST_ADDR, 2 * PAGE, TOP - PAGE, 0), "overlap"),
    "whose_offset_wraps_to_the_beginning": ((GUEST_ADDR, 2 * PAGE, ONE, TOP - PAGE), "overlap"),
    "at_the_last_offset_there_is": ((GUEST_ADDR, PAGE, ONE, TOP - PAGE - 1), "no-fstat"),
}

for words, (fields, bug) in BAD_REGIONS.items():

    def bad_region(scene: Scene, fields: tuple[int, int, int, int] = fields) -> None:
        own = scene.own_region()
        entry = REGION.pack(*fields)
        for acks in (True, False):
            frontend = negotiated(scene, acks=acks)
            scene.refused(frontend, Request.SET_MEM_TABLE, struct.pack("<II", 1, 0) + entry, [own.fd])
            scene.refused(negotiated(scene, acks=acks), Request.ADD_MEM_REG, U64.pack(0) + entry, [own.fd])

    message_attack(bug, name=f"a_region_{words}")(bad_region)


@message_attack("overlap")
def regions_that_overlap(scene: Scene) -> None:
    own, first = scene.own_region(), 1 << 30
    for second in (first, first + PAGE, first + ONE - 1, first - ONE + 1):
        both = REGION.pack(first, ONE, 1 << 40, 0) + REGION.pack(second, ONE, 2 << 40, 0)
        table = struct.pack("<II", 2, 0) + both
        scene.refused(negotiated(scene, acks=True), Request.SET_MEM_TABLE, table, [own.fd] * 2)
        frontend = negotiated(scene, acks=True)
        frontend.tell(Request.ADD_MEM_REG, U64.pack(0) + both[:32], [own.fd])
        scene.refused(frontend, Request.ADD_MEM_REG, U64.pack(0) + both[32:], [own.fd])


@message_attack("table-length-trusted")
def tables_whose_count_is_not_theirs(scene: Scene) -> None:
    own = scene.own_region()
    for n in (2, 8, 9, 255, 0x10000000, 0xFFFFFFFF):
        table = struct.pack("<II", n, 0) + mem_region(own)
        scene.refused(negotiated(scene, acks=n % 2 == 0), Request.SET_MEM_TABLE, table, [own.fd])


@message_attack("table-length-trusted")
def a_table_of_nine_regions(scene: Scene) -> None:
    regions = [scene.own_region(GUEST_ADDR + i * (4 << 20)) for i in range(9)]
    frontend = negotiated(scene, acks=True)
    scene.refused(frontend, Request.SET_MEM_TABLE, mem_table(regions), [own.fd for own in regions])


@message_attack("slots-unchecked")
def one_region_more_than_there_are_slots(scene: Scene) -> None:
    own = scene.own_region()
    frontend = negotiated(scene, acks=True)
    slots = frontend.ask_u64(Request.GET_MAX_MEM_SLOTS)
    for slot in range(slots):
        entry = REGION.pack(GUEST_ADDR + slot * 2 * PAGE, PAGE, GUEST_ADDR + slot * 2 * PAGE, slot % 512 * PAGE)
        frontend.tell(Request.ADD_MEM_REG, U64.pack(0) + entry, [own.fd])
    last = REGION.pack(1 << 40, PAGE, 1 << 40, 0)
    scene.refused(frontend, Request.ADD_MEM_REG, U64.pack(0) + last, [own.fd])


@ring_attack("absent-region-crash")
def a_region_removed_that_was_never_added(scene: Scene) -> None:
    own = scene.own_region(1 << 30)
    scene.refused(negotiated(scene, acks=True), Request.REM_MEM_REG, single_region(own))
    guest = scene.boot()
    scene.refused(guest.frontend, Request.REM_MEM_REG, single_region(own))
    scene.works(guest)


@ring_attack("fd-leak", "mapping-leak")
def the_same_table_over_and_over(scene: Scene) -> None:
    guest = scene.boot()
    for number in range(200):
        guest.frontend.set_mem_table(guest.memory.regions)
        if number % 50 == 0:
            scene.works(guest)


# Tables changed under traffic


SPOILT = b"\xde\xad"


@ring_attack("stale-memory")
def new_memory_for_a_running_guest(scene: Scene) -> None:
    """The same addresses, another file: after the acknowledgement the old one is neither read nor written."""
    guest = scene.boot()
    assert isinstance(guest.memory, WatchedMemory)
    guest.send(*guest.room(2048), queue=0)
    for _ in range(10):
        scene.works(guest)
        old = guest.memory.regions[0]
        guest.memory.move(old, region())
        guest.frontend.set_mem_table(guest.memory.regions)
        old.file[:] = SPOILT * (len(old.file) // 2)
        scene.works(guest)
        guest.send(*guest.room(2048), queue=0)
        scene.arrives(guest, scene.frame())
        assert old.file[:] == SPOILT * (len(old.file) // 2), "the old memory was written to"
        old.close()


@ring_attack("table-change-forgets-rings")
def memory_tables_that_come_and_go_under_traffic(scene: Scene) -> None:
    """Frames go both ways while the table changes; none is lost, repeated or corrupt."""
    extra = scene.own_region(1 << 40)
    for number in range(60):
        if number % 20 == 0:
            guest = scene.boot()
        out = [scene.frame(60 + 13 * i) for i in range(20)]
        back = [scene.frame(60 + 17 * i) for i in range(20)]
        chains = [guest.transmitq.chain([guest.piece(guest.packet(frame))]) for frame in out]
        for _ in back:
            guest.send(*guest.room(500), queue=0)
        guest.fire(*chains)
        for frame in back:
            scene.victim.net.send(frame)
        guest.frontend.set_mem_table([*guest.memory.regions, *[extra] * (number % 2)])
        assert [scene.victim.net.receive(scene.max_wait) for _ in out] == out
        assert [guest.net.receive(scene.max_wait, repost=False) for _ in back] == back
        assert guest.transmitq.wait_used(len(out), scene.max_wait) == [Used(head, 0) for head in chains]


@ring_attack("no-recovery")
def a_table_without_the_memory_the_rings_lie_in(scene: Scene) -> None:
    """Refused, or the rings stop; with their memory back, set up anew, they work."""
    guest = scene.boot()
    extra = scene.own_region(1 << 40)
    if scene.tolerated(guest.frontend, Request.SET_MEM_TABLE, mem_table([extra]), [extra.fd]):
        guest.frontend.set_mem_table(guest.memory.regions)
        scene.forget_drops()
        for index in range(2):
            guest.restart_queue(index)
            scene.works(guest, index)


@ring_attack("removed-region-stays")
def buffers_in_a_region_that_was_removed(scene: Scene) -> None:
    """The ring's memory stays; the memory that its descriptors name is removed."""
    guest = scene.boot(regions=[region(), region(ONE, 1 << 40)])
    frame = scene.frame()
    addr = guest.memory.take(72, region=1)
    guest.memory.write(addr, guest.packet(frame))
    scene.delivered(guest, frame, guest.send(Piece(addr, 72)))
    guest.frontend.tell(Request.REM_MEM_REG, single_region(guest.memory.regions[1]))
    guest.send(Piece(addr, 72))
    scene.broken(guest)


# Files that become shorter


def truncate_and_expect_the_end(scene: Scene, guest: Attacker, which: int, file_bytes: int = 0) -> None:
    guest.memory.regions[which].truncate(file_bytes)
    scene.closed(guest.frontend)


@ring_attack("no-sigbus")
def memory_with_the_rings_truncated_to_nothing(scene: Scene) -> None:
    """The worker reads it while it polls. That port's connection ends, and nothing else."""
    for _ in range(10):
        truncate_and_expect_the_end(scene, scene.boot(), 0)


@ring_attack("no-sigbus")
def memory_truncated_behind_the_rings_and_before_a_frame(scene: Scene) -> None:
    guest = scene.boot()
    frame = Piece(guest.memory.take(72, align=PAGE), 72)
    guest.memory.regions[0].truncate(guest.memory.regions[0].at(frame.addr))
    guest.send(frame)
    scene.closed(guest.frontend)
    scene.frames_may_have_arrived()


@ring_attack("no-sigbus")
def memory_truncated_in_the_middle_of_a_frame(scene: Scene) -> None:
    guest = scene.boot()
    border = guest.memory.take(0, align=PAGE) + PAGE
    guest.memory.write(border - 40, guest.packet(scene.frame(28)))
    guest.memory.regions[0].truncate(guest.memory.regions[0].at(border))
    guest.send(Piece(border - 40, 72))
    scene.closed(guest.frontend)
    scene.frames_may_have_arrived()


def with_second_region(scene: Scene) -> tuple[Attacker, int]:
    """A guest whose rings are in one region; an address in another one."""
    guest = scene.boot(regions=[region(), region(ONE, 1 << 40)])
    return guest, guest.memory.take(8192, region=1)


@ring_attack("no-sigbus")
def a_frame_in_a_truncated_region(scene: Scene) -> None:
    for _ in range(5):
        guest, addr = with_second_region(scene)
        guest.memory.regions[1].truncate(0)
        guest.send(Piece(addr, 72))
        scene.closed(guest.frontend)
        scene.frames_may_have_arrived()


@ring_attack("no-sigbus")
def a_receive_buffer_in_a_truncated_region(scene: Scene) -> None:
    """The victim's frame is copied into it; the victim gets its buffer back."""
    for _ in range(5):
        guest, addr = with_second_region(scene)
        guest.memory.regions[1].truncate(0)
        guest.send(Piece(addr, 2048, writable=True), queue=0)
        scene.victim.net.send(scene.frame())
        scene.closed(guest.frontend)
        scene.victim.net.wait_sent(scene.max_wait)


@ring_attack("no-sigbus")
def an_indirect_table_in_a_truncated_region(scene: Scene) -> None:
    guest, addr = with_second_region(scene)
    guest.memory.write(addr, guest.transmitq.table([guest.piece(guest.packet(scene.frame()))]))
    guest.memory.regions[1].truncate(0)
    guest.send(Piece(addr, 16, indirect=True))
    scene.closed(guest.frontend)


@ring_attack("no-sigbus")
def memory_truncated_with_a_full_ring_of_frames_on_their_way(scene: Scene) -> None:
    for round_number in range(10):
        guest = scene.boot()
        heads = [guest.transmitq.chain([guest.piece(guest.packet(scene.frame(1500)))]) for _ in range(250)]
        guest.fire(*heads)
        time.sleep(0.0002 * round_number)
        guest.memory.regions[0].truncate(0)
        scene.closed(guest.frontend)
        scene.frames_may_have_arrived()


@ring_attack("no-sigbus")
def memory_truncated_while_frames_arrive(scene: Scene) -> None:
    for round_number in range(10):
        guest = scene.boot()
        for _ in range(60):
            guest.send(*guest.room(2048), queue=0)
        for _ in range(60):
            scene.victim.net.send(scene.frame(1500))
        time.sleep(0.0002 * round_number)
        guest.memory.regions[0].truncate(0)
        scene.closed(guest.frontend)
        scene.victim.net.wait_sent(scene.max_wait)


@ring_attack("no-sigbus")
def memory_truncated_and_grown_again(scene: Scene) -> None:
    """It is full of zeros then: the device goes on or the connection ends."""
    # Grown at once, perhaps unnoticed; or only after the device must have read it.
    for seconds, file_bytes in itertools.product((0, 0.02), (0, PAGE, ONE)):
        guest = scene.boot()
        own = guest.memory.regions[0]
        whole = os.fstat(own.fd).st_size
        own.truncate(file_bytes)
        time.sleep(seconds)
        own.truncate(whole)
        time.sleep(0.02)
        scene.zeros_are_mine(guest)


@ring_attack("no-sigbus")
def a_queue_stopped_in_truncated_memory(scene: Scene) -> None:
    """GET_VRING_BASE publishes used entries where there is no memory. It is answered or the connection ends."""
    for _ in range(5):
        guest = scene.boot()
        scene.works(guest)
        guest.memory.regions[0].truncate(0)
        with contextlib.suppress(Closed):
            for index in range(2):
                guest.frontend.get_vring_base(index)


@ring_attack("no-sigbus")
def rings_shown_to_the_operator_in_truncated_memory(scene: Scene) -> None:
    """`fastvhost show` reads ring indices, too."""
    for _ in range(5):
        guest = scene.boot()
        guest.memory.regions[0].truncate(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(scene.max_wait)
            client.connect(str(scene.arena.backend.control))
            client.sendall(b'{"command": "show", "port": "a"}\n')
            assert client.recv(1 << 16), "no answer to show"
        scene.closed(guest.frontend)


@ring_attack("no-sigbus")
def memory_truncated_and_the_connection_closed_at_once(scene: Scene) -> None:
    for _ in range(10):
        guest = scene.boot()
        guest.memory.regions[0].truncate(0)
        guest.frontend.close()


@message_attack("no-fstat")
def memory_truncated_before_it_is_shared(scene: Scene) -> None:
    own = scene.own_region()
    own.truncate(own.mmap_offset + own.bytes - 1)
    scene.refused(negotiated(scene, acks=True), Request.SET_MEM_TABLE, mem_table([own]), [own.fd])
