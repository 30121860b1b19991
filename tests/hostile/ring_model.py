"""What a device must do with a ring, read from guest memory. Virtio 1.2, sections 2.7, 2.8 and 5.1.6.

The reference for fuzzed rings: one rule after the other, simple and slow, without code of fastvhost. A ring is read
from a copy of the memory, made just before it is offered to the device under test.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR, U16, Memory
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED

HEADER_BYTES = 12
SHORTEST = HEADER_BYTES + 14
LONGEST = HEADER_BYTES + 14 + 65535
MOST_IN_TABLE = 32768
Range = tuple[int, int]
"""First guest address, bytes."""


class Still:
    """A copy of guest memory, with one more store: the one by which the driver is about to offer a ring."""

    def __init__(self, memory: Memory, store: tuple[int, bytes]) -> None:
        self.regions = memory.regions
        self.bytes = [bytearray(memory.read(region.guest_addr, region.bytes)) for region in self.regions]
        at, data = store
        for region, copy in zip(self.regions, self.bytes, strict=True):
            if at in region:
                copy[at - region.guest_addr : at - region.guest_addr + len(data)] = data

    def read(self, addr: int, n: int) -> bytes:
        """The bytes of a range that lies in regions."""
        data = b""
        while len(data) < n:
            (owner,) = (i for i, region in enumerate(self.regions) if addr + len(data) in region)
            at = addr + len(data) - self.regions[owner].guest_addr
            data += self.bytes[owner][at : at + n - len(data)]
        return data

    def load_u16(self, addr: int) -> int:
        return int.from_bytes(self.read(addr, 2), "little")


class Bad(Exception):
    """The ring breaks a rule, and must be stopped before this chain."""


class Open(Exception):
    """The specification does not say what a device does with this."""


class Chain(NamedTuple):
    """A chain of the ring."""

    ident: int
    """A head, or a buffer id."""
    pieces: list[Range]
    at: int
    """Its place: where its used descriptor is written, or its number in the available ring."""
    slots: int = 1
    """Places that it takes."""


@dataclass
class Outcome:
    """The expected results for all chains of a ring."""

    done: list[tuple[Chain, int]] = field(default_factory=list)
    """Chains that come back, in order, with the number of bytes written into each."""
    frames: list[bytes] = field(default_factory=list)
    """Frames that arrive on the other side; for a receiveq, frames from there that were delivered."""
    written: list[tuple[int, bytes]] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    broken: str = ""
    """The rule that was broken."""
    open: str = ""
    """Why the result is open: then only the invariants are checked."""

    @property
    def slots(self) -> int:
        return sum(chain.slots for chain, _ in self.done)

    def tags(self) -> list[str]:
        """All rules and drops that it covers."""
        plain = ["frame"] if self.frames else []
        return [*plain, *self.drops, *([self.broken] if self.broken else []), *(["open"] if self.open else [])]


class Rules:
    """One ring, as a device reads it."""

    def __init__(self, memory: Still, size: int, area: int, *, writable: bool, indirect: bool) -> None:
        self.memory, self.size, self.area = memory, size, area
        self.writable, self.indirect = writable, indirect

    def inside(self, addr: int, n: int) -> bool:
        """Whether a range lies in one region, or in adjacent ones."""
        while n > 0:
            owners = [each for each in self.memory.regions if addr in each]
            if not owners:
                return False
            step = owners[0].guest_addr + owners[0].bytes - addr
            addr, n = addr + step, n - step
        return True

    def entry(self, addr: int) -> tuple[int, int, int, int]:
        """The four fields of a descriptor, which must lie in memory."""
        if not self.inside(addr, DESCRIPTOR.size):
            raise Bad("table outside memory")
        first, n, third, fourth = DESCRIPTOR.unpack(self.memory.read(addr, DESCRIPTOR.size))
        return first, n, third, fourth

    def piece(self, addr: int, n: int, writable: bool) -> Range:
        if writable != self.writable:
            raise Bad("wrong direction")
        if not self.inside(addr, n):
            raise Bad("address outside memory")
        return addr, n

    def check_table(self, n: int, flags: int, alone: bool) -> None:
        """Check a descriptor of an indirect table. Sections 2.7.5.3 and 2.8.7. Its WRITE flag has no meaning."""
        if not self.indirect:
            raise Bad("indirect not negotiated")
        if not alone or flags & DESC_F_NEXT:
            raise Bad("indirect out of place")
        if not n or n % DESCRIPTOR.size or n > MOST_IN_TABLE * DESCRIPTOR.size:
            raise Bad("indirect table size")


class SplitRules(Rules):
    """Section 2.7."""

    def chains(self, available: int, start: int) -> Iterator[Chain]:
        """All available chains, from entry `start` on."""
        n = (self.memory.load_u16(available + 2) - start) & 0xFFFF
        if n > self.size:
            raise Bad("available index")
        for i in range(n):
            head = self.memory.load_u16(available + 4 + 2 * ((start + i) % self.size))
            if head >= self.size:
                raise Bad("head")
            yield Chain(head, self.walk(head), start + i)

    def walk(self, head: int) -> list[Range]:
        table, entries, index, left = self.area, self.size, head, self.size
        pieces: list[Range] = []
        in_table = partly_outside = False
        while True:
            if index >= entries:
                raise Bad("next")
            if not left:
                raise Bad("loop")
            left -= 1
            addr, n, flags, following = self.entry(table + DESCRIPTOR.size * index)
            if flags & DESC_F_INDIRECT:
                self.check_table(n, flags, not in_table)
                table, entries, index, left, in_table = addr, n // DESCRIPTOR.size, 0, n // DESCRIPTOR.size, True
                partly_outside = not self.inside(addr, n)
                continue
            pieces.append(self.piece(addr, n, bool(flags & DESC_F_WRITE)))
            if not flags & DESC_F_NEXT:
                break
            index = following
        if partly_outside:
            raise Open("an indirect table partly outside memory, in entries that no chain leads to")
        return pieces


class PackedRules(Rules):
    """Section 2.8."""

    def chains(self, index: int, wrap: bool) -> Iterator[Chain]:
        """All available chains, from this place on: one lap at most, since used descriptors follow then."""
        taken = 0
        while taken < self.size:
            flags = self.entry(self.area + DESCRIPTOR.size * index)[3]
            if flags & (DESC_F_AVAIL | DESC_F_USED) != (DESC_F_AVAIL if wrap else DESC_F_USED):
                return
            chain = self.walk(index, self.size - taken)
            yield chain
            taken += chain.slots
            if (index := index + chain.slots) >= self.size:
                index, wrap = index - self.size, not wrap

    def walk(self, first: int, left: int) -> Chain:
        """NEXT leads to the next descriptor; the id is in the last one; a table is a whole chain."""
        pieces: list[Range] = []
        count, index = 0, first
        while True:
            if count == left:
                if left < self.size:
                    raise Open("a chain reaches into what was taken on the same lap")
                raise Bad("loop")
            count += 1
            addr, n, ident, flags = self.entry(self.area + DESCRIPTOR.size * index)
            if flags & DESC_F_INDIRECT:
                self.check_table(n, flags, count == 1)
                pieces = [self.table_piece(addr + at) for at in range(0, n, DESCRIPTOR.size)]
                break
            pieces.append(self.piece(addr, n, bool(flags & DESC_F_WRITE)))
            if not flags & DESC_F_NEXT:
                break
            index = (index + 1) % self.size
        return Chain(ident, pieces, first, count)

    def table_piece(self, at: int) -> Range:
        """Only the flag WRITE counts; in a transmitq not even that, since DPDK's driver leaves it on headers."""
        addr, n, _, flags = self.entry(at)
        return self.piece(addr, n, self.writable and bool(flags & DESC_F_WRITE))


def sent(chains: Iterator[Chain], memory: Still, most: int) -> Outcome:
    """The result for a transmitq: a frame or a drop for each chain. `most`: the longest frame that can be received."""
    outcome = Outcome()
    try:
        for chain in chains:
            frame = frame_of(chain, memory)
            if isinstance(frame, bytes) and len(frame) > most:
                frame = "oversize"
            if isinstance(frame, bytes):
                outcome.frames.append(frame)
            else:
                outcome.drops[frame] += 1
            outcome.done.append((chain, 0))
    except Bad as bad:
        outcome.broken = str(bad)
        outcome.drops["bad_descriptor"] += 1
    except Open as reason:
        outcome.open = str(reason)
    return outcome


def frame_of(chain: Chain, memory: Still) -> bytes | str:
    total = sum(n for _, n in chain.pieces)
    if total < SHORTEST:
        return "runt"
    if total > LONGEST:
        return "oversize"
    data = b"".join(memory.read(addr, n) for addr, n in chain.pieces)
    return "gso_unsupported" if data[0] & 1 or data[1] else data[HEADER_BYTES:]


def received(chains: Iterator[Chain], frames: Sequence[bytes], *, mergeable: bool, others: Sequence[Range]) -> Outcome:
    """The result for a receiveq that gets these frames, up to the first for which there is no room now.

    `others`: ranges with data that the device still reads; if a frame is written there, the result is open.
    """
    outcome = Outcome()
    waiting: list[Chain] = []
    try:
        for frame in frames:
            if not place(outcome, chains, waiting, frame, mergeable):
                break
    except Bad as bad:
        outcome.broken = str(bad)
        outcome.drops["bad_descriptor"] += 1
    except Open as reason:
        outcome.open = str(reason)
    occupied = sorted([*others, *((addr, len(data)) for addr, data in outcome.written if data)])
    if any(addr + n > behind for (addr, n), (behind, _) in itertools.pairwise(occupied)):
        outcome.open = "a frame is written over what the device has still to read"
    return outcome


def place(outcome: Outcome, chains: Iterator[Chain], waiting: list[Chain], frame: bytes, mergeable: bool) -> bool:
    """Put one frame into as many chains as it needs. False: there are too few."""
    used: list[Chain] = []
    room, wanted = 0, HEADER_BYTES + len(frame)
    outcome.frames.append(frame)
    while room < wanted:
        if len(used) == len(waiting):
            chain = next(chains, None)
            if chain is None:
                outcome.frames.pop()
                return False
            waiting.append(chain)
        used.append(waiting[len(used)])
        room += sum(n for _, n in used[-1].pieces)
        if len(used) == 1 and room < HEADER_BYTES:
            raise Bad("no room for a header")
        if not mergeable and room < wanted:
            outcome.drops["oversize"] += 1
            return True
    data = bytes(HEADER_BYTES - 2) + U16.pack(len(used)) + frame
    for chain in used:
        before = len(data)
        for addr, n in chain.pieces:
            outcome.written.append((addr, data[:n]))
            data = data[n:]
        outcome.done.append((chain, before - len(data)))
    del waiting[: len(used)]
    return True
