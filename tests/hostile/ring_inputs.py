"""Randomly generated rings for a device to walk: chains of every legal shape, and then a few of their fields changed.

A plan is the content of a ring, of tables and of buffers before they are offered. It is right first, and then a few
fields are changed, so that most checks pass and the code after them is reached. `words` tell what was changed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Region
from tests.hostile.ring_model import HEADER_BYTES, LONGEST, SHORTEST, Range
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED

Entry = list[int]
"""A descriptor's four fields in the order of its layout: address, bytes, and flags and next, or id and flags."""
EGRESS = 2048
"""Bytes of the receiver's buffers."""
CHAINS = (1, 1, 1, 2, 2, 3, 5, 8, 20, 40)
FLAGS = (DESC_F_NEXT, DESC_F_WRITE, DESC_F_INDIRECT, DESC_F_AVAIL, DESC_F_USED, 8, 1 << 14)


class Space:
    """Addresses for buffers and tables: one after another, from a random start, sometimes across two regions."""

    def __init__(self, rng: random.Random, regions: Sequence[Region], ranges: Sequence[Range]) -> None:
        self.rng, self.ranges = rng, ranges
        ends = [(each.guest_addr, each.guest_addr + each.bytes) for each in regions]
        self.edges = [addr for both in ends for addr in both]
        self.start()

    def start(self) -> None:
        self.left = list(self.ranges)
        self.rng.shuffle(self.left)
        self.at, self.end = self.left[0][0], sum(self.left.pop(0))
        self.at += self.rng.randrange((self.end - self.at) // 2)

    def take(self, n: int) -> int | None:
        """An address for n bytes, or nothing if there is no more room."""
        self.at += self.rng.choice((0, 0, 1, 7, 16, 64, 200))
        if self.at + n > self.end:
            if not self.left:
                return None
            self.at, self.end = self.left[0][0], sum(self.left.pop(0))
            return self.take(n)
        # Sometimes exactly up to the end of a region, or across it where another one follows.
        for edge in self.edges:
            if self.at < edge - n // 2 < self.at + 4096 and edge - n // 2 + n <= self.end and self.rng.random() < 0.3:
                self.at = self.rng.choice((edge - n, edge - n // 2, edge))
        addr, self.at = self.at, self.at + n
        return addr if self.at <= self.end else None

    def wild(self, n: int) -> int:
        """An address for n bytes that is mostly bad."""
        beside = [edge + by for edge in self.edges for by in (0, -1, -8, -n // 2, -n, 1 - n, 4096)]
        return self.rng.choice([*beside, *beside, 0, 1, 2**64 - 1, 2**64 - 8, 2**64 - n // 2, 2**63]) & (2**64 - 1)


@dataclass
class Plan:
    """The content of memory when a ring is offered."""

    entries: dict[int, Entry] = field(default_factory=dict)
    """Entries by their place in the ring's descriptor area."""
    tables: list[tuple[int, list[Entry]]] = field(default_factory=list)
    data: list[tuple[int, bytes]] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    offered: int = 0
    """By how much the available index moves (split)."""
    frames: list[bytes] = field(default_factory=list)
    """Frames that the other side sends, for a receiveq."""
    words: list[str] = field(default_factory=list)


class Author:
    """Writes plans for one queue."""

    def __init__(
        self,
        rng: random.Random,
        space: Space,
        *,
        size: int,
        packed: bool,
        place: tuple[int, bool],
        writable: bool,
        indirect: bool,
    ) -> None:
        """`place`: the position of a packed ring, with its wrap counter."""
        self.rng, self.space, self.size, self.packed = rng, space, size, packed
        self.writable, self.indirect = writable, indirect
        self.flags, self.link = (3, 2) if packed else (2, 3)
        self.free = rng.sample(range(size), size)
        self.place = place
        self.plan = Plan()
        self.unasked = False

    def write(self, good: bool) -> Plan:
        """`good`: without errors. Otherwise also indirect tables that were not negotiated."""
        self.unasked = not good and not self.indirect and self.rng.random() < 0.3
        for _ in range(self.rng.choice(CHAINS)):
            self.chain()
        if self.writable:
            self.plan.frames = [self.rng.randbytes(self.frame_bytes()) for _ in range(self.rng.randint(1, 6))]
        for _ in range(0 if good else self.rng.choice((0, 1, 1, 1, 1, 2, 3))):
            self.rng.choice(self.spoilers())()
        return self.plan

    # Legal content

    def frame_bytes(self) -> int:
        """Bytes of a frame of the other side: sometimes exactly as many as some chain has room for."""
        rooms = [sum(each[1] for each in self.plan.entries.values()) - HEADER_BYTES, 60, 300]
        return min(1514, max(14, self.rng.choice((self.rng.choice(rooms), self.rng.randint(14, 400), 1514))))

    def total(self) -> int:
        """Bytes of a chain, often near a limit."""
        rng = self.rng
        return rng.choice(
            (rng.randint(SHORTEST, 300),) * 12
            + (rng.randint(0, SHORTEST), rng.randint(300, EGRESS), rng.randint(EGRESS - 2, EGRESS + 2))
        )

    def chain(self) -> None:
        rng, left = self.rng, len(self.free)
        if not left:
            return
        total = self.total()
        header = bytes(HEADER_BYTES)
        if rng.random() < 0.1:
            # Flags and kinds of offload; the other fields have no meaning here.
            header = bytes((rng.choice((0, 1, 2, 0xFE)), rng.choice((0, 0, 1, 0x80)))) + rng.randbytes(10)
        data = (header + rng.randbytes(max(0, total - HEADER_BYTES)))[:total]
        pieces = rng.choice((1, 1, 1, 1, 2, 3, 4, 8, 13, left if left <= 16 else 2))
        places = [rng.choice((0, 1, 11, 12, 13, 26, total, rng.randint(0, total))) for _ in range(pieces - 1)]
        cuts = sorted([0, total, *(min(total, place) for place in places)])
        cut = [data[start:stop] for start, stop in itertools.pairwise(cuts)]
        buffers: list[Range] = []
        for part in cut:
            if (addr := self.space.take(len(part))) is None:
                return
            buffers.append((addr, len(part)))
            if not self.writable:
                self.plan.data.append((addr, part))
        if rng.random() < 0.02:
            buffers = self.huge()
        self.put(buffers)

    def huge(self) -> list[Range]:
        """A chain with about the most bytes of a frame, with shared buffers."""
        start, n = max(self.space.ranges, key=lambda each: each[1])
        total = self.rng.choice((LONGEST - 1, LONGEST, LONGEST + 1, 2 * n))
        return [(start, min(n, total)), (start, total - min(n, total))]

    def put(self, buffers: list[Range]) -> None:
        """A chain of these, direct, by a table, or (split) the first ones direct and the rest by a table."""
        split_at = len(buffers)
        if (self.indirect or self.unasked) and self.rng.random() < 0.3:
            split_at = 0 if self.packed else self.rng.choice((0, 0, self.rng.randrange(len(buffers))))
        if len(buffers) > len(self.free):
            if not self.indirect:
                return
            split_at = 0
        direct, rest = buffers[:split_at], buffers[split_at:]
        flags = DESC_F_WRITE if self.writable else 0
        entries = [[addr, n, flags] for addr, n in direct]
        if rest:
            table = self.space.take(16 * len(rest))
            if table is None or len(direct) >= len(self.free):
                return
            last = len(rest) - 1
            # In a packed ring's table, NEXT means nothing and is not there.
            inside = [
                self.entry(addr, n, flags | (0 if self.packed or i == last else DESC_F_NEXT), 0 if i == last else i + 1)
                for i, (addr, n) in enumerate(rest)
            ]
            self.plan.tables.append((table, inside))
            entries.append([table, 16 * len(rest), DESC_F_INDIRECT])
        self.into_packed(entries) if self.packed else self.into_split(entries)

    def entry(self, addr: int, n: int, flags: int, link: int) -> Entry:
        return [addr, n, link, flags] if self.packed else [addr, n, flags, link]

    def into_split(self, entries: list[list[int]]) -> None:
        places = [self.free.pop() for _ in entries]
        for i, (addr, n, flags) in enumerate(entries):
            more = i + 1 < len(entries)
            self.plan.entries[places[i]] = self.entry(
                addr, n, flags | (DESC_F_NEXT if more else 0), places[i + 1] if more else 0
            )
        self.plan.heads.append(places[0])
        self.plan.offered += 1

    def into_packed(self, entries: list[list[int]]) -> None:
        ident = self.free[-1]
        for i, (addr, n, flags) in enumerate(entries):
            self.free.pop()
            flags |= DESC_F_NEXT if i + 1 < len(entries) else 0
            self.append(self.entry(addr, n, flags | self.marks(), ident))

    def marks(self) -> int:
        return DESC_F_AVAIL if self.place[1] else DESC_F_USED

    def append(self, entry: Entry) -> None:
        """Append to a packed ring."""
        index, wrap = self.place
        self.plan.entries[index] = entry
        self.place = (index + 1, wrap) if index + 1 < self.size else (0, not wrap)

    # Errors

    def spoilers(self) -> list[Callable[[], None]]:
        own = [self.skip_one, self.offer_behind, self.only_links] if self.packed else [self.some_head, self.some_index]
        general = [self.some_address, self.some_length, self.some_flag, self.some_link, self.some_table]
        return [*general, *general, *own, *own, self.exchange, self.move_end]

    def say(self, words: str) -> None:
        self.plan.words.append(words)

    def some_entry(self) -> tuple[str, Entry]:
        """Any descriptor, in the ring or in a table, with its name."""
        found = [(f"descriptor {place}", entry) for place, entry in self.plan.entries.items()]
        for number, (_, entries) in enumerate(self.plan.tables):
            found += [(f"entry {i} of table {number}", entry) for i, entry in enumerate(entries)]
        return self.rng.choice(found) if found else ("nothing", [0, 0, 0, 0])

    def some_address(self) -> None:
        name, entry = self.some_entry()
        entry[0] = self.space.wild(entry[1])
        self.say(f"the address of {name} is {entry[0]:#x}")

    def some_length(self) -> None:
        name, entry = self.some_entry()
        n = entry[1]
        others = 0, 1, 11, 25, n + 1, n ^ 16, 0xFFFFFFFF, 0x80000000, 1 << 16, 1 << 20
        entry[1] = self.rng.choice(others) & 0xFFFFFFFF
        self.say(f"{name} has {entry[1]} bytes")

    def some_flag(self) -> None:
        name, entry = self.some_entry()
        if self.plan.tables and self.rng.random() < 0.3:
            name, entry = "some entry of a table", self.rng.choice(self.rng.choice(self.plan.tables)[1])
        entry[self.flags] ^= self.rng.choice(FLAGS)
        self.say(f"the flags of {name} are {entry[self.flags]:#x}")

    def some_link(self) -> None:
        """next, or the id."""
        name, entry = self.some_entry()
        others = self.size - 1, self.size, self.size + 1, 0xFFFF, 0, self.rng.randrange(self.size)
        entry[self.link] = self.rng.choice(others)
        if not self.packed and self.rng.random() < 0.7:
            entry[self.flags] |= DESC_F_NEXT
        self.say(f"{'the id' if self.packed else 'next'} of {name} is {entry[self.link]}")

    def some_table(self) -> None:
        """A descriptor of an indirect table gets a wrong length, or refers to another table or to itself."""
        found = [each for each in self.plan.entries.items() if each[1][self.flags] & DESC_F_INDIRECT]
        if not found:
            return self.some_flag()
        place, entry = self.rng.choice(found)
        n = entry[1]
        entry[1] = self.rng.choice((0, 8, 17, n + 16, n + 8, max(n - 16, 0), 16 * 32769, n, n))
        if entry[1] == n:
            inner: list[Entry] = next((entries for at, entries in self.plan.tables if at == entry[0]), [])
            if inner:
                inner[-1][:] = self.entry(entry[0], 16, DESC_F_INDIRECT, 0)
        return self.say(f"descriptor {place} refers to a table of {entry[1]} bytes, or that to itself")

    def some_head(self) -> None:
        if self.plan.heads:
            at = self.rng.randrange(len(self.plan.heads))
            others = self.size, self.size - 1, 0xFFFF, self.rng.randrange(self.size), self.rng.choice(self.plan.heads)
            self.plan.heads[at] = self.rng.choice((*others, self.size + self.rng.randrange(4)))
            self.say(f"head number {at} is {self.plan.heads[at]}")

    def some_index(self) -> None:
        by = self.rng.choice((1, -1, self.size, self.size + 1, 0x8000, self.rng.randint(1, 2 * self.size)))
        self.plan.offered = self.rng.choice((by, self.plan.offered + by)) & 0xFFFF
        self.say(f"the available index moves by {self.plan.offered}")

    def skip_one(self) -> None:
        """Make a place unavailable that is before an available one."""
        _, entry = self.some_entry()
        other = DESC_F_USED if self.marks() == DESC_F_AVAIL else DESC_F_AVAIL
        marks = self.rng.choice((0, other, DESC_F_AVAIL | DESC_F_USED))
        entry[self.flags] = entry[self.flags] & ~(DESC_F_AVAIL | DESC_F_USED) | marks
        self.say(f"somewhere the flags are {entry[self.flags]:#x}")

    def offer_behind(self) -> None:
        """Add one after the last: available, available in the next lap only, or after a gap."""
        _, entry = self.some_entry()
        if len(self.plan.entries) + 2 > self.size:
            return
        if self.rng.random() < 0.5:
            self.place = ((self.place[0] + 1) % self.size, self.place[1] ^ (self.place[0] + 1 == self.size))
        self.append([*entry[:3], entry[3] ^ self.rng.choice((0, 0, DESC_F_AVAIL | DESC_F_USED, DESC_F_NEXT))])
        self.say("one more stands behind the last one")

    def only_links(self) -> None:
        """Every descriptor of the ring has NEXT."""
        name, entry = self.some_entry()
        while len(self.plan.entries) < self.size:
            self.append(self.entry(entry[0], entry[1], entry[self.flags], entry[self.link]))
        for each in self.plan.entries.values():
            each[self.flags] |= DESC_F_NEXT
        self.say(f"the ring is full, and NEXT everywhere, mostly as in {name}")

    def exchange(self) -> None:
        (one, first), (other, second) = self.some_entry(), self.some_entry()
        first[:], second[:] = second[:], first[:]
        self.say(f"{one} and {other} change places")

    def move_end(self) -> None:
        """Move a buffer or table to the end, or the beginning, of memory."""
        name, entry = self.some_entry()
        entry[0] = (self.rng.choice(self.space.edges) - self.rng.choice((0, entry[1]))) & (2**64 - 1)
        self.say(f"{name} is moved to {entry[0]:#x}")
