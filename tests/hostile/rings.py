"""The ring formats of attacks, and the driver's side of each, which can break every rule.

Split and packed rings, each with and without IN_ORDER. Virtio 1.2, sections 2.7, 2.8, 2.7.9 and 2.8.8. With IN_ORDER a
device may return a batch of chains by its last one only; `take_used` returns all of them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from tests.driver import NEAR_WRAP, USED_ELEMENT, Memory, SplitQueue, Timeout, Used, table_of
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED, PACKED_DESCRIPTOR, PackedQueue, packed_table_of

F_RING_PACKED = 1 << 34
F_IN_ORDER = 1 << 35
Range = tuple[int, int]
"""First guest address, bytes."""


class Batches:
    """The offered chains in order, from which the chains of a batch are known."""

    def __init__(self, in_order: bool) -> None:
        self.in_order = in_order
        self.offered: deque[int] = deque()

    def expand(self, used: Used) -> list[Used]:
        """All chains that this element returns, itself last."""
        if not self.in_order or used.head not in self.offered:
            return [used]
        batch = []
        while (head := self.offered.popleft()) != used.head:
            batch.append(Used(head, 0))
        return [*batch, used]


class HostileSplit(SplitQueue):
    """A split virtqueue, with spare descriptors after its table for devices that read too far."""

    def __init__(self, memory: Memory, size: int, *, start: int = NEAR_WRAP, in_order: bool = False) -> None:
        self._batches = Batches(in_order)
        super().__init__(memory, size, start=start, spare_descriptors=4)

    def reset(self, start: int = NEAR_WRAP) -> None:
        super().reset(start)
        self._batches.offered.clear()

    def offer(self, *heads: int) -> None:
        self.place(*heads)
        self.set_avail_index(self.avail_index + len(heads))

    def place(self, *heads: int) -> None:
        super().place(*heads)
        self._batches.offered.extend(heads if self._batches.in_order else ())

    table = staticmethod(table_of)

    def take_used(self) -> list[Used]:
        taken: list[Used] = []
        while (self.used_index - self._used) & 0xFFFF:
            element = Used(*self.memory.unpack(USED_ELEMENT, self.device_area + 4 + 8 * (self._used % self.size)))
            for used in self._batches.expand(element):
                self._free.extend(self._chains.pop(used.head, ()))
                self._used = (self._used + 1) & 0xFFFF
                taken.append(used)
        return taken

    def writable(self) -> list[Range]:
        """The ranges that a device may write: the used ring, with avail_event. Section 2.7.8."""
        return [(self.device_area, 6 + 8 * self.size)]


def half_base(index: int, wrap: bool = True) -> int:
    """One half of a packed ring's base: an index and its wrap counter."""
    return index | wrap << 15


def packed_base(index: int, wrap: bool = True) -> int:
    """The base of a packed ring with nothing in flight: available half below, used half above."""
    return half_base(index, wrap) | half_base(index, wrap) << 16


class HostilePacked(PackedQueue):
    """A packed virtqueue. It begins near the end of the ring, so that every test wraps."""

    def __init__(
        self, memory: Memory, size: int, *, start: int | None = None, wrap: bool = True, in_order: bool = False
    ) -> None:
        self._batches = Batches(in_order)
        super().__init__(
            memory, size, start=packed_base(max(size - 2, 0) if start is None else start, wrap), spare_descriptors=4
        )

    def reset(self, start: int = 1 << 15) -> None:
        """Make it empty, at a base as of GET_VRING_BASE: each descriptor as a device left it in the lap before."""
        index, wrap = start & 0x7FFF, bool(start >> 15 & 1)
        self._avail = self._used = index
        self._avail_wrap = self._used_wrap = wrap
        self._ids = deque(range(self.size))
        self._chains: dict[int, list[tuple[int, int, int, int]]] = {}
        self._slots: dict[int, int] = {}
        self._adopted: set[int] = set()
        self._batches.offered.clear()
        self.offered_at: set[int] = set()
        self.base = packed_base(index, wrap)
        lap = [wrap if i < index else not wrap for i in range(self.size)]
        self.memory.write(self.descriptor_area, b"".join(bytes(14) + MARKS[used, used] for used in lap))
        self.memory.write(self.driver_area, bytes(4))
        self.memory.write(self.device_area, bytes(4))

    # Descriptors

    def place_of(self, ahead: int) -> tuple[int, bool]:
        """Index and wrap counter of the descriptor `ahead` places after the next one to be offered."""
        at = self._avail + ahead
        return at % self.size, self._avail_wrap ^ bool(at // self.size & 1)

    def marks(self, ahead: int = 0) -> int:
        """The flags that make this descriptor available."""
        return DESC_F_AVAIL if self.place_of(ahead)[1] else DESC_F_USED

    def put(self, ahead: int, addr: int, bytes: int, ident: int = 0, flags: int | None = None) -> None:
        """Write any descriptor; by default an available one that is a whole chain."""
        at, _ = self.place_of(ahead)
        flags = self.marks(ahead) if flags is None else flags
        self.memory.pack(PACKED_DESCRIPTOR, self.at(at), addr, bytes, ident, flags)
        self.offered_at.add(at)

    def move_on(self, descriptors: int) -> None:
        """So many were put."""
        self._avail, self._avail_wrap = self.place_of(descriptors)

    def adopt(self, ident: int, slots: int) -> None:
        """Expect a chain that was written by put() to come back under this id."""
        self._slots[ident] = slots
        self._adopted.add(ident)
        self._batches.offered.append(ident)

    def offer(self, *buffers: int) -> None:
        """All of them at once: the flags of the very first descriptor are written last."""
        ahead, first = 0, b""
        for buffer in buffers:
            entries = self._chains.pop(buffer)
            self._slots[buffer] = len(entries)
            self.offered_at.add(self.place_of(ahead)[0])
            for addr, length, ident, flags in entries:
                entry = PACKED_DESCRIPTOR.pack(addr, length, ident, flags | self.marks(ahead))
                if not first:
                    first = entry
                    self.memory.write(self.at(self._avail), first[:14])
                else:
                    self.memory.write(self.at(self.place_of(ahead)[0]), entry)
                ahead += 1
        self._batches.offered.extend(buffers if self._batches.in_order else ())
        if first:
            self.memory.write(self.at(self._avail) + 14, first[14:])
        self.move_on(ahead)

    def make_available(self, *buffers: int, kick: int = -1) -> None:
        assert kick < 0, "hostile guests are polled"
        self.offer(*buffers)

    table = staticmethod(packed_table_of)

    @property
    def free(self) -> int:
        return self.size - sum(self._slots.values())

    # Used descriptors

    def take_used(self) -> list[Used]:
        taken: list[Used] = []
        while True:
            used, length, buffer = self._next_used()
            if not used or buffer not in self._slots:
                return taken
            for element in self._batches.expand(Used(buffer, length)):
                self._step(self._slots.pop(element.head))
                self._ids.extend(() if element.head in self._adopted else [element.head])
                self._adopted.discard(element.head)
                taken.append(element)

    def echoes(self, n: int, timeout: float) -> list[Used]:
        """Wait for n used descriptors of chains of one, whatever ids they carry."""
        taken: list[Used] = []
        deadline = time.monotonic() + timeout
        while len(taken) < n:
            used, length, buffer = self._next_used()
            if used:
                taken.append(Used(buffer, length))
                self._step(1)
            elif time.monotonic() > deadline:
                raise Timeout(f"{len(taken)} of {n} used descriptors after {timeout} s")
            else:
                time.sleep(0.0001)
        return taken

    def _next_used(self) -> tuple[bool, int, int]:
        """Whether it is used, its length and its id. Flags first: the others are valid only after they say so."""
        flags = self.memory.load_u16(self.at(self._used) + 14)
        _, length, buffer, _ = self.memory.unpack(PACKED_DESCRIPTOR, self.at(self._used))
        marks = bool(flags & DESC_F_AVAIL), bool(flags & DESC_F_USED)
        return marks == (self._used_wrap, self._used_wrap), length, buffer

    def _step(self, slots: int) -> None:
        self._used += slots
        if self._used >= self.size:
            self._used -= self.size
            self._used_wrap = not self._used_wrap

    def writable(self) -> list[Range]:
        """The ranges that a device may write: length, id and flags where chains begin, and its event area."""
        return [(self.device_area, 4), *((self.at(index) + 8, 8) for index in self.offered_at)]


MARKS = {
    (avail, used): (avail * DESC_F_AVAIL | used * DESC_F_USED).to_bytes(2, "little")
    for avail in (False, True)
    for used in (False, True)
}
Ring = HostileSplit | HostilePacked


class Format(NamedTuple):
    """One way to lay out a ring, as features."""

    packed: bool
    in_order: bool

    @property
    def features(self) -> int:
        return self.packed * F_RING_PACKED | self.in_order * F_IN_ORDER

    def queue(self, memory: Memory, size: int, start: int | None = None) -> Ring:
        if self.packed:
            return HostilePacked(memory, size, start=start, in_order=self.in_order)
        return HostileSplit(memory, size, start=NEAR_WRAP if start is None else start, in_order=self.in_order)


FORMATS = {
    "split": Format(packed=False, in_order=False),
    "split_in_order": Format(packed=False, in_order=True),
    "packed": Format(packed=True, in_order=False),
    "packed_in_order": Format(packed=True, in_order=True),
}
SPLIT = ("split",)
PACKED = ("packed", "packed_in_order")
EVERY = tuple(FORMATS)
