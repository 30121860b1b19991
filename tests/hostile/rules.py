"""The rules of a ring in one table: the bytes that break each, in each ring format, and the status that comes of it.

Virtio 1.2, sections 2.7 (split), 2.8 (packed) and 5.1.6.3 (what the receiveq of a network device must have room for).
Each row is run on every format that has the rule, at a port of this process (test_rules), and on one against a running
fwd (attacks_rules). A ring that breaks a rule is stopped in front of the chain that does, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR, Piece, Region
from tests.frontend import F_PROTOCOL_FEATURES, F_VERSION_1, FEATURES
from tests.hostile.rings import EVERY, PACKED
from tests.hostile.scene import GUEST_ADDR, Attacker, region

if TYPE_CHECKING:
    from tests.hostile.scene import Scene

TOP, ONE = 2**64, 1 << 20
END = GUEST_ADDR + 2 * ONE
"""Behind the attacker's region: its file goes on there."""
SECOND = GUEST_ADDR + ONE + 4096
"""Where there are two regions, the second one's address: before it is a hole."""
FAR = GUEST_ADDR + ONE
"""Far from the rings."""
SPLIT = ("split", "split_in_order")
RECEIVEQ, TRANSMITQ = 0, 1
BOTH = (TRANSMITQ, RECEIVEQ)


class Side:
    """One queue of an attacker, and buffers that would be right for it."""

    def __init__(self, scene: Scene, guest: Attacker, index: int) -> None:
        self.scene, self.guest, self.index = scene, guest, index
        self.queue: Any = guest.queues[index]
        self.writable = index == RECEIVEQ
        self.flag = DESC_F_WRITE if self.writable else 0

    def piece(self, data: bytes) -> Piece:
        """In the direction that is right, as long as this; what stands in it is sent, or must be left as it is."""
        return Piece(self.guest.put(data), len(data), self.writable)

    def good(self) -> Piece:
        """A frame, or room for one that no device may come to write to."""
        return self.piece(bytes(2048) if self.writable else self.guest.packet(self.scene.frame()))

    def header(self) -> Piece:
        return self.piece(self.guest.net.header())

    def other(self, n: int = 72) -> Piece:
        """In the wrong direction."""
        return Piece(self.guest.put(self.guest.packet(self.scene.frame(n - 12))), n, not self.writable)

    def at(self, addr: int, n: int) -> Piece:
        return Piece(addr, n, self.writable)

    def chain(self, *pieces: Piece) -> int:
        return int(self.queue.chain(pieces))

    def table(self, *pieces: Piece) -> Piece:
        found: Piece = self.queue.indirect(pieces)
        return found

    def decoy(self, index: int) -> None:
        """A good descriptor where no device may look: behind the table."""
        piece = self.good()
        self.queue.write_descriptor(index, piece.addr, piece.bytes, self.flag)

    def spare(self, n: int) -> list[int]:
        """Free descriptors of a split ring."""
        return [self.queue._free.pop() for _ in range(n)]


Break = Callable[[Side], int | None]
"""Lays the bytes: what is to be offered, by its head or buffer id; None where they offer themselves."""


class Rule(NamedTuple):
    """A row: what breaks a rule, where that stands in the specification, and what the device says of it."""

    name: str
    section: str
    status: str
    """Words of the sentence that stands for the ring's status."""
    lay: Break
    rings: tuple[str, ...] = EVERY
    queues: tuple[int, ...] = BOTH
    live: tuple[int, ...] = (TRANSMITQ,)
    """The queues on which it is run against a running fwd, too."""
    bug: str = ""
    """The switch of the broken back-end under which it goes unnoticed."""
    features: int = FEATURES
    itself: bool = False
    """It offers itself, where the ring goes on: nothing stands before it."""
    holes: bool = False
    """There are two regions, with a hole between them."""
    size: int = 256
    start: int | None = None
    """Where the ring begins, if it matters."""

    def boot(self, scene: Scene) -> Attacker:
        regions: Sequence[Region] = (region(ONE), region(ONE, SECOND)) if self.holes else ()
        return scene.boot(regions=regions, features=self.features, queue_size=self.size, start=self.start)

    def called(self, index: int) -> str:
        """As an attack."""
        return self.name if index == TRANSMITQ else f"{self.name}_in_the_receiveq"


# Heads, indices and links, which only split rings have. Sections 2.7.5, 2.7.6.


def head(index: int) -> Break:
    def lay(side: Side) -> int:
        side.decoy(index)
        return index

    return lay


def jump(by: int) -> Break:
    def lay(side: Side) -> None:
        """A device that trusts the index finds a good chain in every entry."""
        queue = side.queue
        queue.place(*[side.chain(side.good())] * queue.size)
        queue.set_avail_index(queue.avail_index + by)

    return lay


def next_is(index: int) -> Break:
    def lay(side: Side) -> int:
        side.decoy(index)
        header, (at,) = side.header(), side.spare(1)
        side.queue.write_descriptor(at, header.addr, header.bytes, side.flag | DESC_F_NEXT, index)
        return at

    return lay


def loop(n_bytes: int, n: int = 0) -> Break:
    def lay(side: Side) -> int:
        """Of so many descriptors, or of all that are free."""
        piece, indices = side.good(), side.spare(n or side.queue.free)
        for index, after in zip(indices, [*indices[1:], indices[0]], strict=True):
            side.queue.write_descriptor(index, piece.addr, n_bytes, side.flag | DESC_F_NEXT, after)
        return indices[0]

    return lay


def next_all_round(n_bytes: int) -> Break:
    def lay(side: Side) -> None:
        """In every descriptor of a packed ring; the first one's flags are written last."""
        piece, queue = side.good(), side.queue
        for ahead in range(queue.size - 1, -1, -1):
            queue.put(ahead, piece.addr, n_bytes, ahead, DESC_F_NEXT | side.flag | queue.marks(ahead))

    return lay


def next_in_table(index: int) -> Break:
    def lay(side: Side) -> int:
        """A table of two, whose second descriptor leads to `index`, where there is a good descriptor."""
        header, empty, good = side.header(), side.piece(b""), side.good()
        table = DESCRIPTOR.pack(header.addr, header.bytes, side.flag | DESC_F_NEXT, 1)
        table += DESCRIPTOR.pack(empty.addr, 0, side.flag | DESC_F_NEXT, index)
        addr = side.guest.put(table + bytes(16))
        if index >= 2:
            side.guest.memory.write(addr + 16 * index, DESCRIPTOR.pack(good.addr, good.bytes, side.flag, 0))
        return side.chain(Piece(addr, 32, indirect=True))

    return lay


# Buffers: chains that every format has


def chain(*make: Callable[[Side], Piece]) -> Break:
    """Of these pieces."""
    return lambda side: side.chain(*(each(side) for each in make))


def at(addr: int, n: int) -> Callable[[Side], Piece]:
    return lambda side: side.at(addr, n)


def indirect(*make: Callable[[Side], Piece]) -> Callable[[Side], Piece]:
    """A table of these pieces."""
    return lambda side: side.table(*(each(side) for each in make))


def table_of_bytes(n: int) -> Callable[[Side], Piece]:
    """The table has a good descriptor, whatever its length says."""
    return lambda side: side.table(side.good())._replace(bytes=n)


def table_at(addr: int, *make: Callable[[Side], Piece]) -> Callable[[Side], Piece]:
    def piece(side: Side) -> Piece:
        """Where its file goes on behind the region, it has the rest of the table."""
        pieces = [each(side) for each in make]
        memory = side.guest.memory
        own = memory.regions[0]
        if addr < TOP // 2:
            memory.put_at(own, own.at(addr), side.queue.table(pieces))
        return Piece(addr, 16 * len(pieces), indirect=True)

    return piece


def table_in_itself(side: Side) -> int:
    addr = side.guest.memory.take(16)
    side.guest.memory.write(addr, DESCRIPTOR.pack(addr, 16, DESC_F_INDIRECT, 0))
    return side.chain(Piece(addr, 16, indirect=True))


def with_next_over_the_end(side: Side) -> None:
    """A packed ring's last descriptor refers to a table and has NEXT; the first one is its next."""
    queue, good, table = side.queue, side.good(), side.table(side.good())
    queue.put(1, good.addr, good.bytes, 1, side.flag | queue.marks(1))
    queue.put(0, table.addr, 16, 1, DESC_F_INDIRECT | DESC_F_NEXT | queue.marks())


def room_of(n: int) -> Callable[[Side], Piece]:
    return lambda side: side.piece(bytes(n))


GOOD, HEADER, OTHER = Side.good, Side.header, Side.other
AHEAD, HEAD, NEXT, LOOPS = "ran ahead", "beyond the queue", "next field", "loops"
OUTSIDE, TABLE_SIZE, MISPLACED = "not in shared memory", "an indirect table whose size", "inside an indirect table, or"
WRONG_WAY = "a device-"
"""With what it is, which depends on the queue."""
TABLES = "2.7.5.3, 2.8.7"


def structure() -> Iterator[Rule]:
    """Heads, indices, links and loops."""
    for name, index, live in ("a_head_equal_to_the_queue_size", 256, BOTH), ("a_head_of_65535", 0xFFFF, (TRANSMITQ,)):
        yield Rule(name, "2.7.6", HEAD, head(index), SPLIT, live=live, bug="no-head-check")
    for name, by, live in (
        ("an_avail_index_one_further_than_the_queue_is_long", 257, BOTH),
        ("an_avail_index_that_jumps_half_way_round", 0x8000, (TRANSMITQ,)),
        ("an_avail_index_that_goes_backwards", -1, (TRANSMITQ,)),
    ):
        yield Rule(name, "2.7.6.1", AHEAD, jump(by), SPLIT, live=live, bug="no-avail-jump-check", itself=True)
    for name, index, live in ("a_next_equal_to_the_queue_size", 256, BOTH), ("a_next_of_65535", 0xFFFF, (TRANSMITQ,)):
        yield Rule(name, "2.7.5", NEXT, next_is(index), SPLIT, live=live, bug="no-next-check")
    for name, n_bytes, n in (
        ("a_descriptor_that_leads_to_itself_with_no_bytes", 0, 1),
        ("a_descriptor_that_leads_to_itself", 72, 1),
        ("two_descriptors_that_lead_to_each_other_with_no_bytes", 0, 2),
        ("a_loop_over_the_whole_queue", 1, 0),
    ):
        live = BOTH if n == 1 else (TRANSMITQ,)
        yield Rule(name, "2.7.5.2", LOOPS, loop(n_bytes, n), SPLIT, live=live, bug="no-loop-bound")
    for words, n_bytes, size, live in (
        ("with_no_bytes", 0, 256, BOTH),
        ("with_16_bytes", 16, 256, BOTH),
        ("of_a_ring_of_7", 72, 7, (TRANSMITQ,)),
        ("of_a_ring_of_1", 72, 1, (TRANSMITQ,)),
    ):
        yield Rule(
            f"next_in_every_descriptor_{words}", "2.8.6", LOOPS, next_all_round(n_bytes), PACKED, live=live,
            bug="no-loop-bound", itself=True, size=size,
        )  # fmt: skip
    for name, index, status, bug in (
        ("a_next_in_an_indirect_table_that_leads_right_behind_it", 2, NEXT, "no-table-bound"),
        ("a_next_in_an_indirect_table_of_65535", 0xFFFF, NEXT, "no-table-bound"),
        ("a_loop_in_an_indirect_table", 0, LOOPS, "no-loop-bound"),
        ("a_descriptor_in_an_indirect_table_that_leads_to_itself", 1, LOOPS, "no-loop-bound"),
    ):
        yield Rule(name, "2.7.5.3", status, next_in_table(index), SPLIT, bug=bug)


def addresses() -> Iterator[Rule]:
    """Buffers that are not in memory, or not all of them. Sections 2.7.4, 2.8.4."""
    for words, addr, n, bug, live in (
        ("of_0", 0, 72, "nowhere-is-zeros", BOTH),
        ("of_2_to_the_64_less_1", TOP - 1, 72, "range-by-addition", BOTH),
        ("that_wraps_to_the_region", TOP - 8, GUEST_ADDR + 80, "range-by-addition", BOTH),
        ("whose_end_wraps_to_0", TOP - 72, 72, "range-by-addition", (TRANSMITQ,)),
        ("one_byte_before_the_region", GUEST_ADDR - 1, 72, "range-by-addition", (TRANSMITQ,)),
        ("one_byte_beyond_the_region", END - 71, 72, "sloppy-range", BOTH),
        ("right_behind_the_region", END, 72, "behind-is-inside", BOTH),
        ("with_a_length_of_4_GiB_less_1", FAR, 0xFFFFFFFF, "sloppy-range", BOTH),
        ("with_a_length_of_2_GiB", FAR, 0x80000000, "sloppy-range", (TRANSMITQ,)),
    ):
        first, second, section = chain(at(addr, n)), chain(HEADER, at(addr, n)), "2.7.4, 2.8.4"
        yield Rule(f"a_buffer_{words}", section, OUTSIDE, first, live=live, bug=bug)
        yield Rule(f"a_second_buffer_{words}", section, OUTSIDE, second, bug=bug)
        yield Rule(f"a_buffer_{words}_in_a_table", TABLES, OUTSIDE, chain(indirect(HEADER, at(addr, n))), live=())
    last = chain(indirect(GOOD, at(END - 8, 64)))
    yield Rule("a_buffer_outside_memory_in_an_indirect_table", TABLES, OUTSIDE, last, live=BOTH, bug="sloppy-range")
    for name, n, bug in (
        ("a_buffer_that_begins_in_memory_and_ends_in_a_hole", 72, "sloppy-range"),
        ("a_buffer_that_begins_and_ends_in_memory_with_a_hole_between", 4096 + 72, "nowhere-is-zeros"),
    ):
        yield Rule(name, "2.7.4, 2.8.4", OUTSIDE, chain(at(SECOND - 4096 - 36, n)), bug=bug, holes=True)


def directions() -> Iterator[Rule]:
    """Buffers that the device may not read, or may not write. Sections 2.7.4.2, 2.8.3."""
    for name, pieces, live in (
        ("a_buffer_in_the_wrong_direction", (OTHER,), BOTH),
        ("a_buffer_in_the_wrong_direction_behind_a_right_one", (GOOD, OTHER), BOTH),
        ("a_buffer_in_the_wrong_direction_before_a_right_one", (OTHER, GOOD), (RECEIVEQ,)),
    ):
        yield Rule(name, "2.7.4.2, 2.8.3", WRONG_WAY, chain(*pieces), live=live, bug="write-flag-ignored")
    in_a_table, name = chain(indirect(GOOD, OTHER)), "a_buffer_in_the_wrong_direction_in_an_indirect_table"
    yield Rule(name, TABLES, WRONG_WAY, in_a_table, SPLIT, bug="write-flag-ignored")
    # What is only read may be marked as anything: DPDK's driver leaves WRITE on headers.
    yield Rule(
        "a_readable_buffer_in_an_indirect_table", TABLES, WRONG_WAY, in_a_table, PACKED, (RECEIVEQ,), (RECEIVEQ,),
        bug="write-flag-ignored",
    )  # fmt: skip


def tables() -> Iterator[Rule]:
    """What refers to an indirect table. Sections 2.7.5.3, 2.8.7."""
    for words, n, status, bug, live in (
        ("no_bytes", 0, TABLE_SIZE, "odd-table", (TRANSMITQ,)),
        ("8_bytes", 8, TABLE_SIZE, "odd-table", (TRANSMITQ,)),
        ("17_bytes", 17, TABLE_SIZE, "odd-table", BOTH),
        ("32769_descriptors", 16 * 32769, TABLE_SIZE, "", ()),
        ("4_GiB_less_1", 0xFFFFFFFF, TABLE_SIZE, "odd-table", (TRANSMITQ,)),
        ("4_GiB_less_16", 0xFFFFFFF0, TABLE_SIZE, "sloppy-range", (TRANSMITQ,)),
    ):
        lay = chain(table_of_bytes(n))
        yield Rule(f"an_indirect_table_of_{words}", TABLES, status, lay, live=live, bug=bug)
    for name, addr, pieces, live in (
        ("an_indirect_table_that_ends_outside_memory", END - 16, (HEADER, GOOD), (TRANSMITQ,)),
        ("an_indirect_table_right_behind_memory", END, (GOOD,), (TRANSMITQ,)),
        ("an_indirect_table_nowhere", TOP - 4096, (GOOD,), ()),
    ):
        yield Rule(name, TABLES, OUTSIDE, chain(table_at(addr, *pieces)), live=live, bug="behind-is-inside")
    nested = chain(indirect(indirect(GOOD)))
    yield Rule(
        "an_indirect_table_in_an_indirect_table", TABLES, MISPLACED, nested, SPLIT, live=BOTH, bug="nested-indirect"
    )
    yield Rule(
        "an_indirect_table_that_refers_to_itself", TABLES, MISPLACED, table_in_itself, SPLIT, bug="nested-indirect"
    )
    before = chain(indirect(GOOD), GOOD)
    yield Rule("an_indirect_descriptor_with_a_next", TABLES, MISPLACED, before, bug="indirect-and-next")
    yield Rule(
        "an_indirect_descriptor_with_a_next_over_the_end_of_the_ring", TABLES, MISPLACED, with_next_over_the_end,
        PACKED, bug="indirect-and-next", itself=True, start=255,
    )  # fmt: skip
    yield Rule(
        "an_indirect_descriptor_without_the_feature", TABLES, "not negotiated", chain(indirect(GOOD)),
        bug="indirect-unasked", features=F_VERSION_1 | F_PROTOCOL_FEATURES,
    )  # fmt: skip


def room() -> Iterator[Rule]:
    """Receive chains without room for the header. Section 5.1.6.3.1."""
    for n in range(12):
        name, live = f"a_receive_chain_of_{n}_bytes", (RECEIVEQ,) if n in (0, 1, 11) else ()
        yield Rule(
            name, "5.1.6.3.1", "too short", chain(room_of(n)), queues=(RECEIVEQ,), live=live, bug="receive-room-trusted"
        )


RULES = {rule.name: rule for part in (structure, addresses, directions, tables, room) for rule in part()}


def breaks(scene: Scene, rule: Rule, index: int) -> None:
    """A ring with nothing but these bytes: it is stopped at once, or when the first frame for it comes."""
    guest = rule.boot(scene)
    side = Side(scene, guest, index)
    found = rule.lay(side)
    if found is not None:
        side.queue.offer(found)
    if index == RECEIVEQ:
        scene.victim.net.send(scene.frame())
    scene.broken(guest, index, rule.status)
    scene.victim.net.wait_sent(scene.max_wait)
