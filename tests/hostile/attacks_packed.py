"""Attacks on what only packed rings have: wrap counters, buffer ids, batches, chains across the end.

Virtio 1.2, section 2.8.
A device may look at several descriptors at a time; here they become available together, so that it does.
"""

from __future__ import annotations

from itertools import product

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Piece, Used
from tests.hostile.attack import attack, packed_attack
from tests.hostile.invariant import Broken
from tests.hostile.rings import MARKS
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene

END = GUEST_ADDR + (2 << 20)
STARTS = (0, 1, 2, 3, 252, 253, 254)
"""Each place in a cache line of four descriptors, and batches that cross the end of a ring of 256."""
BAD = {
    "outside_memory": (Piece(END, 72), "batch-checks-first"),
    "one_byte_outside_memory": (Piece(END - 71, 72), "batch-checks-first"),
    "of_4_GiB_less_1": (Piece(GUEST_ADDR, 0xFFFFFFFF), "batch-checks-last"),
    "of_the_wrong_direction": (Piece(GUEST_ADDR, 72, writable=True), "batch-checks-first"),
    "that_wraps": (Piece(2**64 - 8, 72), "batch-checks-last"),
    "that_refers_to_a_table_of_no_bytes": (Piece(GUEST_ADDR, 0, indirect=True), "batch-checks-first"),
}


def offer_batch(scene: Scene, guest: Attacker, bad: Piece, position: int) -> None:
    """Four chains at once, one of them bad.

    Those before it pass, it breaks the queue, those after it have no effect.
    """
    frames = [scene.frame() for _ in range(4)]
    pieces = [guest.piece(guest.packet(frame)) for frame in frames]
    pieces[position] = bad
    heads = [guest.transmitq.chain([piece]) for piece in pieces]
    guest.fire(*heads)
    got = [scene.victim.net.receive(scene.max_wait) for _ in range(position)]
    if got != frames[:position]:
        raise Broken("I7", "the frames before the bad descriptor arrived in another form")
    scene.returned(guest, heads[:position])
    scene.broken(guest)


for words, (bad, bug) in BAD.items():

    def batch(scene: Scene, bad: Piece = bad) -> None:
        for number, position in enumerate((*range(4), *range(3))):
            guest = scene.boot(start=STARTS[number])
            offer_batch(scene, guest, bad, position)

    packed_attack(bug, name=f"four_descriptors_at_once_of_which_one_is_{words}")(batch)


@packed_attack("batch-loses-good", "bad-ring-goes-on")
def four_descriptors_at_once_of_which_one_is_bad_at_every_place(scene: Scene) -> None:
    for position, start in product(range(4), (0, 253)):
        offer_batch(scene, scene.boot(start=start), Piece(END, 72), position)


@packed_attack("batch-checks-first")
def four_receive_buffers_at_once_of_which_one_is_bad(scene: Scene) -> None:
    """Four frames arrive at a time, too. Where none waits for room, only one more finds the bad descriptor."""
    for bad, position in product((Piece(END - 1, 2048, writable=True), Piece(GUEST_ADDR, 2048)), range(4)):
        guest = scene.boot(start=253 if position % 2 else 0)
        room = guest.room(2048, 2048, 2048, 2048)
        pieces = [*room[:position], bad, *room[position + 1 :]]
        heads = [guest.receiveq.chain([piece]) for piece in pieces]
        guest.net.receive_buffers.update({head: [piece] for head, piece in zip(heads, pieces, strict=True)})
        guest.receiveq.offer(*heads)
        frames = [scene.frame() for _ in range(4)]
        scene.victim.net.wait_sent(scene.max_wait)
        sending = scene.victim.transmitq
        sending.make_available(*(sending.chain(scene.victim.net.offer(frame)) for frame in frames))
        got = [guest.net.receive(scene.max_wait, repost=False) for _ in range(position)]
        if got != frames[:position]:
            raise Broken("I7", "the frames before the bad descriptor arrived in another form")
        sending.wait_used(4, scene.max_wait)
        scene.victim.net.send(scene.frame())
        scene.broken(guest, 0)


@packed_attack("batch-checks-one-flag")
def four_descriptors_of_which_one_is_not_available_yet(scene: Scene) -> None:
    """Those before it pass; it and those after it wait until its flags are written."""
    for position, start in product(range(4), (0, 253)):
        guest = scene.boot(start=start)
        queue = guest.transmitq
        frames = [scene.frame() for _ in range(4)]
        for i in (3, 2, 1, 0):
            addr = guest.put(guest.packet(frames[i]))
            queue.put(i, addr, 72, 10 + i, stale(guest, i) if i == position else None)
        arrived = [scene.victim.net.receive(scene.max_wait) for _ in range(position)]
        scene.nothing_arrives("a descriptor that is not available")
        queue.put(position, guest.put(guest.packet(frames[position])), 72, 10 + position)
        arrived += [scene.victim.net.receive(scene.max_wait) for _ in range(4 - position)]
        if arrived != frames:
            raise Broken("I7", "four frames arrived in another order")
        queue.move_on(4)
        scene.echoed(guest, *range(10, 14))


# Wrap counters. Section 2.8.1.


def stale(guest: Attacker, ahead: int = 0) -> int:
    """The flags of an available descriptor of the other lap."""
    wrap = guest.transmitq.place_of(ahead)[1]
    return int.from_bytes(MARKS[not wrap, wrap], "little")


def not_available(scene: Scene, *flags: tuple[bool, bool]) -> None:
    """A good frame with flags that do not make it available under this wrap counter; then with flags that do."""
    for start, wrap in product((0, 100, 255), (False, True)):
        guest = scene.boot()
        rebase(guest, start, wrap)
        frame = scene.frame()
        addr = guest.put(guest.packet(frame))
        for avail, used in flags:
            marks = int.from_bytes(MARKS[avail ^ (not wrap), used ^ (not wrap)], "little")
            guest.transmitq.put(0, addr, 72, 7, marks)
            scene.nothing_arrives(f"AVAIL {avail} and USED {used} where the wrap counter is {wrap}")
        guest.transmitq.put(0, addr, 72, 7)
        guest.transmitq.move_on(1)
        if scene.victim.net.receive(scene.max_wait) != frame:
            raise Broken("I7", "another frame arrived")
        scene.echoed(guest, 7)


def rebase(guest: Attacker, index: int, wrap: bool) -> None:
    """Set the transmitq up anew, empty, here."""
    guest.frontend.get_vring_base(1)
    guest.transmitq.reset(index | wrap << 15)
    guest.frontend.set_up_queue(1, guest.transmitq, call=guest.calls[1], err=guest.errs[1])


@packed_attack("wrap-ignored")
def descriptors_of_the_other_lap(scene: Scene) -> None:
    not_available(scene, (False, True))


@packed_attack("used-bit-ignored")
def descriptors_that_look_used(scene: Scene) -> None:
    not_available(scene, (True, True), (False, False))


@packed_attack("gap-skipped")
def an_available_descriptor_behind_one_that_is_not(scene: Scene) -> None:
    for start in (0, 254, 255):
        guest = scene.boot(start=start)
        first, second = scene.frame(), scene.frame()
        guest.transmitq.put(1, guest.put(guest.packet(second)), 72, 2)
        scene.nothing_arrives("a descriptor behind one that is not available")
        guest.transmitq.put(0, guest.put(guest.packet(first)), 72, 1)
        guest.transmitq.move_on(2)
        if [scene.victim.net.receive(scene.max_wait) for _ in range(2)] != [first, second]:
            raise Broken("I7", "two frames in another order")
        scene.echoed(guest, 1, 2)


@packed_attack("used-wrap-forgotten", "wrap-ignored", "used-steps-one", "chain-does-not-wrap")
def chains_of_every_length_over_the_end_of_the_ring(scene: Scene) -> None:
    guest = scene.boot(queue_size=8)
    for number in range(64):
        frame = scene.frame()
        sizes = [12, 1, 1, 1, 1, 1, 1][: number % 8]
        scene.delivered(guest, frame, guest.send(*guest.pieces(guest.packet(frame), sizes)))
        # Descriptors behind the first of a chain stay as they are.
        if number % 8 == 7:
            scene.verify_memory()


@packed_attack("address-overwritten", "marks-whole-chain")
def what_is_written_of_a_descriptor(scene: Scene) -> None:
    """Length, id and flags of the first one; the rest of the chain is the driver's. Section 2.8.5."""
    guest = scene.boot(queue_size=16, start=0)
    frame = scene.frame()
    scene.delivered(guest, frame, guest.send(*guest.pieces(guest.packet(frame), [12, 5, 5])))
    guest.send(*guest.room(12, 20, 2048), queue=0)
    scene.arrives(guest, scene.frame())
    guest.verify()


# Buffer ids: the driver gets back the id that it wrote. Section 2.8.6.


@attack("id-is-an-index", rings=("packed",))
def buffer_ids_out_of_range(scene: Scene) -> None:
    guest = scene.boot()
    ids = (256, 257, 0x7FFF, 0x8000, 0xFFFF)
    for ident in ids:
        guest.transmitq.put(0, guest.put(guest.packet(scene.frame())), 72, ident)
        guest.transmitq.move_on(1)
        scene.victim.net.receive(scene.max_wait)
    scene.echoed(guest, *ids)


@attack("id-only-once", rings=("packed",))
def the_same_buffer_id_over_and_over(scene: Scene) -> None:
    guest = scene.boot()
    for _ in range(3):
        frames = [scene.frame() for _ in range(8)]
        for i in range(7, -1, -1):
            guest.transmitq.put(i, guest.put(guest.packet(frames[i])), 72, 5)
        guest.transmitq.move_on(8)
        if [scene.victim.net.receive(scene.max_wait) for _ in frames] != frames:
            raise Broken("I7", "eight frames under one id arrived in another form")
        if guest.transmitq.echoes(8, scene.max_wait) != [Used(5, 0)] * 8:
            raise Broken("C", "one id, offered eight times, came back as others")


@attack("id-is-an-index", rings=("packed",))
def receive_buffer_ids_out_of_range_and_over_and_over(scene: Scene) -> None:
    guest = scene.boot()
    ids = (0xFFFF, 0xFFFF, 256, 3, 3)
    for ident in ids:
        room = guest.room(2048)[0]
        guest.receiveq.put(0, room.addr, room.bytes, ident, DESC_F_WRITE | guest.receiveq.marks())
        guest.receiveq.move_on(1)
    for _ in ids:
        scene.victim.net.send(scene.frame())
    if guest.receiveq.echoes(5, scene.max_wait) != [Used(ident, 72) for ident in ids]:
        raise Broken("C", "the ids of receive buffers came back as others")


@packed_attack("id-is-an-index")
def a_buffer_id_out_of_range_alone_in_a_ring(scene: Scene) -> None:
    """One at a time, so that also with IN_ORDER each is returned by itself."""
    guest = scene.boot()
    for ident in (256, 0xFFFF, 256):
        guest.transmitq.put(0, guest.put(guest.packet(scene.frame())), 72, ident)
        guest.transmitq.move_on(1)
        scene.victim.net.receive(scene.max_wait)
        scene.echoed(guest, ident)


@packed_attack("id-of-first")
def buffer_ids_in_descriptors_that_are_not_the_last_of_their_chain(scene: Scene) -> None:
    """Only the last one's counts. Section 2.8.6."""
    guest = scene.boot()
    frame = scene.frame()
    first, last = guest.pieces(guest.packet(frame), [12])
    guest.transmitq.put(1, last.addr, last.bytes, 9)
    guest.transmitq.put(0, first.addr, first.bytes, 0xFFFF, DESC_F_NEXT | guest.transmitq.marks())
    if scene.victim.net.receive(scene.max_wait) != frame:
        raise Broken("I7", "another frame arrived")
    scene.echoed(guest, 9, slots=2)


# NEXT


@packed_attack("sloppy-range")
def next_in_the_last_descriptor_of_a_chain(scene: Scene) -> None:
    """It leads to the next descriptor, whatever that is, which is checked like any other."""
    for start in (0, 254, 255):
        guest = scene.boot(start=start)
        addr = guest.put(guest.packet(scene.frame()))
        guest.transmitq.put(1, END - 1, 2, 3, stale(guest, 1))
        guest.transmitq.put(0, addr, 72, 3, DESC_F_NEXT | guest.transmitq.marks())
        scene.broken(guest)


# Indirect tables. Section 2.8.7: in a table only the flag WRITE has a meaning, and ids have none.


@packed_attack("table-flags-followed")
def flags_and_ids_in_an_indirect_table(scene: Scene) -> None:
    guest = scene.boot()
    for flags in (DESC_F_NEXT, DESC_F_INDIRECT, DESC_F_NEXT | DESC_F_INDIRECT, 1 << 7, 1 << 15, 0xFFFF & ~DESC_F_WRITE):
        frame = scene.frame()
        pieces = guest.pieces(guest.packet(frame), [12, 20])
        table = guest.transmitq.indirect(pieces)
        for number in range(3):
            guest.memory.write(table.addr + 16 * number + 12, (0xFFFF - number).to_bytes(2, "little"))
            guest.memory.write(table.addr + 16 * number + 14, flags.to_bytes(2, "little"))
        scene.delivered(guest, frame, guest.send(table))


@packed_attack("table-flags-followed")
def a_table_in_a_table_is_a_buffer(scene: Scene) -> None:
    """An indirect entry in a table is a buffer of 16 bytes, too short for a frame."""
    guest = scene.boot()
    inner = guest.transmitq.indirect([guest.piece(guest.packet(scene.frame()))])
    outer = guest.transmitq.indirect([inner])
    guest.memory.write(outer.addr + 14, DESC_F_INDIRECT.to_bytes(2, "little"))
    scene.dropped(guest, "runt", guest.send(outer))
    scene.works(guest)


@packed_attack("write-flag-in-table")
def writable_buffers_in_an_indirect_table_in_the_transmitq(scene: Scene) -> None:
    """DPDK's driver marks headers so: they are read like any other, and never written."""
    guest = scene.boot()
    frame = scene.frame()
    for marked in ((0,), (1,), (0, 1, 2)):
        pieces = guest.pieces(guest.packet(frame), [12, 20])
        pieces = [piece._replace(writable=number in marked) for number, piece in enumerate(pieces)]
        scene.delivered(guest, frame, guest.send(guest.transmitq.indirect(pieces)))
