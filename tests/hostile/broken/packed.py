"""The broken back-end's packed ring. Virtio 1.2, section 2.8."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.hostile.broken.bugs import bug, die
from tests.hostile.broken.ring import DESC, IN_ORDER, INDIRECT, NEXT, WRITE, Area, Bad, Chain, Illegal, Queue

AVAIL, USED = 1 << 7, 1 << 15
DISABLE, EVENT_AT = 1, 2
BATCH = 4
FRESH = 1 << 15 | 1 << 31
"""The base of a ring that was never used."""


class Position:
    """An index and its wrap counter."""

    def __init__(self, half_base: int) -> None:
        self.index, self.wrap = half_base & 0x7FFF, bool(half_base >> 15 & 1) or bug("base-without-wrap")

    def ahead(self, n: int, size: int) -> tuple[int, bool]:
        at = self.index + n
        if bug("mask-for-modulo"):
            return at & (size - 1), self.wrap ^ (at >= size)
        return at % size, self.wrap ^ bool(at // size & 1)

    def advance(self, n: int, size: int) -> None:
        self.index, self.wrap = self.ahead(n, size)

    @property
    def half_base(self) -> int:
        return self.index | self.wrap << 15


class PackedRing:
    """One ring that both sides write."""

    def __init__(self, queue: Queue, areas: list[Area]) -> None:
        self.queue, self.size = queue, queue.size
        base = FRESH if queue.base is None else queue.base
        self.avail, self.used = Position(base & 0xFFFF), Position(base >> 16)
        if max(self.avail.index, self.used.index) >= self.size:
            if bug("ring-values-unchecked"):
                die("packed base")
            raise Illegal(f"base {base:#x} lies beyond the ring")
        if bug("base-halves-trusted") and self.avail.half_base != self.used.half_base:
            die("more or less in flight than there can be")
        self.move(areas)
        self.last_id = -1
        self.trusted = 0

    def move(self, areas: list[Area]) -> None:
        self.desc, self.device, self.driver = areas

    def read(self, index: int) -> tuple[int, int, int, int]:
        """A descriptor: address, bytes, id, flags."""
        Queue.descriptors += 1
        addr, n, ident, flags = DESC.unpack(self.raw(index))
        return addr, n, ident, flags

    def raw(self, index: int) -> bytes:
        region, at = self.desc
        return region.read(at + DESC.size * index, DESC.size)

    def is_available(self, flags: int, wrap: bool) -> bool:
        avail, used = bool(flags & AVAIL), bool(flags & USED)
        if bug("wrap-ignored"):
            return avail != used
        return avail == wrap and (used != wrap or bug("used-bit-ignored"))

    def peek(self, ahead: Sequence[Chain]) -> Chain | None:
        skipped = sum(chain.slots for chain in ahead)
        if skipped >= self.size:
            return None
        at, wrap = self.avail.ahead(skipped, self.size)
        trusted = self.trusted
        self.trusted = max(0, trusted - 1)
        if not self.is_available(self.read(at)[3], wrap) and not (trusted and bug("batch-checks-one-flag")):
            behind, wrap = self.avail.ahead(skipped + 1, self.size)
            if not bug("gap-skipped") or not self.is_available(self.read(behind)[3], wrap):
                return None
            at = behind
        if not trusted:
            self.look_at_batch(skipped)
        chain = self.walk(at, self.size - skipped, trusted)
        if bug("id-is-an-index") and chain.ticket >= self.size:
            die("an id as an index")
        if bug("id-only-once") and chain.ticket == self.last_id:
            raise Bad("an id twice")
        expected = (self.last_id + 1) % self.size
        promised = self.queue.port.features & IN_ORDER and self.last_id >= 0
        if bug("order-trusted") and promised and chain.ticket != expected:
            die("an id out of order")
        return chain

    def look_at_batch(self, skipped: int) -> None:
        """Where four descriptors stand alone side by side, look at all of them before any is taken."""
        places = [self.avail.ahead(skipped + i, self.size) for i in range(BATCH)]
        entries = [self.read(at) for at, _ in places]
        ready = [self.is_available(entry[3], wrap) for entry, (_, wrap) in zip(entries, places, strict=True)]
        if ready[0] and not all(ready) and bug("batch-checks-one-flag"):
            self.trusted = BATCH - 1
        if not all(ready) or any(entry[3] & NEXT for entry in entries):
            return
        if bug("batch-checks-first") or bug("batch-checks-last"):
            self.trusted = BATCH - 1
        if bug("batch-loses-good"):
            for addr, n, _, flags in entries:
                self.check(addr, n, flags)

    def check(self, addr: int, n: int, flags: int) -> None:
        if flags & INDIRECT:
            self.queue.check_table(addr, n, flags)
        else:
            self.queue.check_piece(addr, n, flags)

    def walk(self, at: int, left: int, trusted: int) -> Chain:
        pieces: list[tuple[int, int]] = []
        slots, first_id = 0, -1
        size = self.size
        # The first of a batch is trusted by none before it, the last trusts none behind it.
        unchecked = trusted > 0 if bug("batch-checks-first") else self.trusted > 0 and bug("batch-checks-last")
        while True:
            addr, n, ident, flags = self.read(at)
            slots += 1
            first_id = ident if first_id < 0 else first_id
            try:
                self.check(addr, n, flags)
            except Bad:
                if unchecked:
                    die("a descriptor in a batch")
                raise
            if flags & INDIRECT:
                if slots > 1:
                    raise Bad("an indirect descriptor behind others")
                pieces = self.table(addr, n)
                break
            pieces.append(self.queue.settled(addr, n, self.raw, at))
            if not flags & NEXT or (bug("empty-piece-ends") and not n):
                break
            if slots >= left - bug("long-chain-refused") and not bug("no-loop-bound"):
                raise Bad("a chain is longer than the ring")
            at = at + 1 if bug("chain-does-not-wrap") else (at + 1) % size
        return Chain(first_id if bug("id-of-first") else ident, pieces, slots)

    def table(self, addr: int, n: int) -> list[tuple[int, int]]:
        """Of what stands in a table, only addresses, lengths and WRITE count."""
        pieces = []
        for i in range(n // 16 or 1):
            Queue.descriptors += 1
            read, at = self.queue.port.table.entry, addr + 16 * i
            piece, length, _, flags = DESC.unpack(read(at))
            if bug("table-flags-followed") and flags & (NEXT | INDIRECT):
                raise Bad("flags in a table")
            means = WRITE if self.queue.index % 2 == 0 or bug("write-flag-in-table") else 0
            self.queue.check_piece(piece, length, flags & means)
            pieces.append(self.queue.settled(piece, length, read, at))
            if bug("empty-piece-ends") and not length:
                break
        return pieces

    def skip(self, *chains: Chain) -> None:
        self.avail.advance(sum(chain.slots for chain in chains), self.size)
        for chain in chains:
            self.last_id = chain.ticket

    def skip_all(self) -> None:
        self.trusted = 0
        for _ in range(self.size):
            if not self.is_available(self.read(self.avail.index)[3], self.avail.wrap):
                break
            self.avail.advance(1, self.size)
            self.used.advance(1, self.size)

    def give_back_bad(self) -> None:
        self.trusted = 0
        bad = Chain(self.read(self.avail.index)[2], [])
        self.skip(bad)
        self.give_back((bad, 0))

    def give_back(self, *used: tuple[Chain, int]) -> bool:
        """The flags of the first one last: what the driver looks at shows all of them."""
        region, at = self.desc
        places = []
        for chain, n in used:
            wrap = self.used.wrap or bug("used-wrap-forgotten")
            flags = (AVAIL | USED) * wrap | (WRITE if n else 0)
            places.append((self.used.index, struct.pack("<IHH", n, chain.ticket, flags)))
            for i in range(1, chain.slots if bug("marks-whole-chain") else 0):
                places.append((self.used.ahead(i, self.size)[0], places[-1][1]))
            self.used.advance(1 if bug("used-steps-one") else chain.slots, self.size)
        for index, entry in reversed(places):
            if bug("address-overwritten"):
                region.write(at + 16 * index, bytes(8))
            region.write(at + 16 * index + 8, entry)
        return self.wants_to_hear()

    def give_back_batch(self, chains: Sequence[Chain], told: Chain, n: int) -> bool:
        region, at = self.desc
        flags = (AVAIL | USED) * (self.used.wrap or bug("used-wrap-forgotten")) | (WRITE if n else 0)
        region.write(at + 16 * self.used.index + 8, struct.pack("<IHH", n, told.ticket, flags))
        self.used.advance(1 if bug("batch-moves-one") else sum(chain.slots for chain in chains), self.size)
        return self.wants_to_hear()

    def wants_to_hear(self) -> bool:
        """Section 2.8.10: unless it says that it does not. What it wants to hear of may be told too early."""
        off_wrap, flags = struct.unpack("<HH", self.driver[0].read(self.driver[1], 4))
        if flags == EVENT_AT and off_wrap & 0x7FFF >= self.size and bug("event-offset-trusted"):
            die("an event beyond the ring")
        if flags > EVENT_AT and bug("event-flags-trusted"):
            die("event flags")
        if self.device[0].read(self.device[1] + 2, 2) != bytes(2) and bug("event-area-believed"):
            die("the device's own event area")
        return bool(flags != DISABLE)

    def base(self) -> int:
        return self.avail.half_base | self.used.half_base << 16
