"""The broken back-end's split ring. Virtio 1.2, section 2.7."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from tests.hostile.broken.bugs import bug, die
from tests.hostile.broken.ring import DESC, IN_ORDER, INDIRECT, NEXT, Area, Bad, Chain, Queue


def u16(area: Area, at: int) -> int:
    return int.from_bytes(area[0].read(area[1] + at, 2), "little")


class SplitRing:
    """Descriptor table, available ring and used ring."""

    def __init__(self, queue: Queue, areas: list[Area]) -> None:
        self.queue, self.size = queue, queue.size
        self.move(areas)
        self.next_avail = self.next_used = queue.base or 0
        self.last_head, self.expected = -1, 0

    def move(self, areas: list[Area]) -> None:
        self.desc, self.used, self.avail = areas

    def peek(self, ahead: Sequence[Chain]) -> Chain | None:
        n = (u16(self.avail, 2) - self.next_avail) & 0xFFFF
        if n > self.size and not bug("no-avail-jump-check"):
            raise Bad(f"avail index is {n} ahead of {self.next_avail}")
        if n <= len(ahead):
            return None
        head = u16(self.avail, 4 + 2 * ((self.next_avail + len(ahead)) % self.size))
        if head >= self.size and not bug("no-head-check"):
            raise Bad(f"head {head} is beyond the queue")
        if bug("twice-is-once") and head == self.last_head:
            raise Bad("a head twice")
        if bug("order-trusted") and self.queue.port.features & IN_ORDER and head != self.expected:
            die("a head out of order")
        return Chain(head, self.walk(head))

    def walk(self, head: int) -> list[tuple[int, int]]:
        """The buffers of a chain."""
        region, at = self.desc
        read: Callable[[int], bytes] = lambda i: region.read(at + 16 * i, 16)  # noqa: E731
        size, left, index, pieces, table = self.size, self.size, head, [], False
        while True:
            if left == (1 if bug("long-chain-refused") and not table else 0) and not bug("no-loop-bound"):
                raise Bad("a chain is longer than its table: a loop")
            left -= 1
            Queue.descriptors += 1
            addr, n, flags, following = DESC.unpack(read(index))
            if flags & INDIRECT:
                if table and not bug("nested-indirect"):
                    raise Bad("an indirect descriptor out of place")
                if bug("indirect-only-first") and index != head:
                    raise Bad("an indirect descriptor behind others")
                self.queue.check_table(addr, n, flags)
                read = lambda i, addr=addr: self.queue.port.table.read(addr + 16 * i, 16)  # type: ignore[misc]  # noqa: E731
                size, left = n // 16, 65536 if bug("no-table-bound") else max(n // 16, 1)
                index, table = 0, True
                continue
            self.queue.check_piece(addr, n, flags)
            pieces.append(self.queue.settled(addr, n, read, index))
            if bug("stale-next") and following >= size:
                raise Bad("a next beyond the queue")
            if not flags & NEXT or (bug("empty-piece-ends") and not n):
                return pieces
            index = following
            if index >= size and not bug("no-table-bound" if table else "no-next-check"):
                raise Bad(f"next {index} leads out of its table")

    def skip(self, *chains: Chain) -> None:
        self.next_avail = (self.next_avail + len(chains)) & 0xFFFF
        for chain in chains:
            self.last_head = chain.ticket
            self.expected = (self.expected + len(chain.pieces)) % self.size

    def skip_all(self) -> None:
        self.next_avail = u16(self.avail, 2)

    def give_back_bad(self) -> None:
        head = u16(self.avail, 4 + 2 * (self.next_avail % self.size))
        self.next_avail = (self.next_avail + 1) & 0xFFFF
        self.give_back((Chain(head, []), 0))

    def give_back(self, *used: tuple[Chain, int]) -> bool:
        """With one store of the index."""
        region, at = self.used
        for chain, n in used:
            region.write(at + 4 + 8 * (self.next_used % self.size), struct.pack("<II", chain.ticket, n))
            self.next_used = (self.next_used + 1) & 0xFFFF
        region.write(at + 2, struct.pack("<H", self.next_used))
        return not u16(self.avail, 0) & 1

    def give_back_batch(self, chains: Sequence[Chain], told: Chain, n: int) -> bool:
        region, at = self.used
        region.write(at + 4 + 8 * (self.next_used % self.size), struct.pack("<II", told.ticket, n))
        self.next_used = (self.next_used + (1 if bug("batch-moves-one") else len(chains))) & 0xFFFF
        region.write(at + 2, struct.pack("<H", self.next_used))
        return not u16(self.avail, 0) & 1

    def base(self) -> int:
        return self.next_avail
