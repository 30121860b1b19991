"""The driver's side of a packed virtqueue, written from the specification. Virtio 1.2, section 2.8.

Imports nothing of fastvhost. Same shape as tests.driver.SplitQueue; chains become visible at make_available.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Sequence

from bench.guests.waits import MAX_WAIT
from tests.driver import DESC_F_NEXT, DESC_F_WRITE, Memory, Piece, Timeout, Used

PACKED_DESCRIPTOR = struct.Struct("QIHH")  # addr, len, id, flags
EVENT = struct.Struct("HH")  # off_wrap, flags
DESC_F_AVAIL = 1 << 7
DESC_F_USED = 1 << 15
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2


class PackedQueue:
    """The driver's side of one packed virtqueue. Both wrap counters start at 1, and indices at `start`."""

    def __init__(
        self, memory: Memory, size: int, *, start: int = 0, region: int = 0, spare_descriptors: int = 0
    ) -> None:
        self.memory = memory
        self.size = size
        # Spare descriptors stand behind the ring: no device looks at them, unless a check is missing.
        self.descriptor_area = memory.take(16 * (max(size, 1) + spare_descriptors), align=16, region=region)
        self.driver_area = memory.take(4, align=4, region=region)
        self.device_area = memory.take(4, align=4, region=region)
        self.reset(start)

    def reset(self, start: int = 0) -> None:
        self.memory.write(self.descriptor_area, bytes(16 * self.size))
        self.memory.write(self.driver_area, bytes(4))
        self.memory.write(self.device_area, bytes(4))
        self._avail = self._used = start
        self._avail_wrap = self._used_wrap = True
        self._ids: deque[int] = deque(range(self.size))
        self._chains: dict[int, list[tuple[int, int, int, int]]] = {}
        self._slots: dict[int, int] = {}
        self.base = start | 1 << 15 | start << 16 | 1 << 31

    def at(self, index: int) -> int:
        return self.descriptor_area + 16 * index

    def chain(self, pieces: Sequence[Piece]) -> int:
        """Prepare a chain and return its buffer id."""
        buffer = self._ids.popleft()
        last = len(pieces) - 1
        self._chains[buffer] = [
            (p.addr, p.bytes, buffer, p.flags | (DESC_F_NEXT if i < last else 0)) for i, p in enumerate(pieces)
        ]
        return buffer

    def indirect(self, pieces: Sequence[Piece], table: int | None = None) -> Piece:
        """Write an indirect table. It has no NEXT: the whole table is the chain. Section 2.8.7."""
        if table is None:
            table = self.memory.take(16 * len(pieces))
        packed = packed_table_of(pieces)
        self.memory.write(table, packed)
        return Piece(table, len(packed), indirect=True)

    def make_available(self, *buffers: int, kick: int = -1) -> None:
        """Write the chains' descriptors, the flags of each chain's first one last. Section 2.8.6."""
        for buffer in buffers:
            entries = self._chains.pop(buffer)
            self._slots[buffer] = len(entries)
            first: tuple[int, tuple[int, int, int, int]] | None = None
            for addr, length, ident, flags in entries:
                marks = DESC_F_AVAIL if self._avail_wrap else DESC_F_USED
                entry = (addr, length, ident, flags | marks)
                if first is None:
                    first = (self._avail, entry)
                else:
                    self.memory.pack(PACKED_DESCRIPTOR, self.at(self._avail), *entry)
                self._avail += 1
                if self._avail == self.size:
                    self._avail, self._avail_wrap = 0, not self._avail_wrap
            assert first is not None
            where, entry = first
            self.memory.write(self.at(where), PACKED_DESCRIPTOR.pack(*entry)[:14])
            self.memory.store_u16(self.at(where) + 14, entry[3])
        if kick >= 0:
            os.eventfd_write(kick, 1)

    def set_no_interrupt(self, on: bool) -> None:
        self.memory.pack(EVENT, self.driver_area, 0, EVENT_DISABLE if on else EVENT_ENABLE)

    def set_used_event(self, off: int, wrap: bool) -> None:
        self.memory.pack(EVENT, self.driver_area, off | wrap << 15, EVENT_DESC)

    @property
    def device_flags(self) -> int:
        return self.memory.load_u16(self.device_area + 2)

    def take_used(self) -> list[Used]:
        """Every used descriptor not taken yet, in ring order."""
        taken: list[Used] = []
        while True:
            # The flags first: length and id are valid only after they say so.
            flags = self.memory.load_u16(self.at(self._used) + 14)
            if (bool(flags & DESC_F_AVAIL), bool(flags & DESC_F_USED)) != (self._used_wrap, self._used_wrap):
                return taken
            _, length, buffer, _ = self.memory.unpack(PACKED_DESCRIPTOR, self.at(self._used))
            if buffer not in self._slots:
                return taken
            self._used += self._slots.pop(buffer)
            if self._used >= self.size:
                self._used -= self.size
                self._used_wrap = not self._used_wrap
            self._ids.append(buffer)
            taken.append(Used(buffer, length))

    def wait_used(self, n: int = 1, timeout: float = MAX_WAIT) -> list[Used]:
        """Take used descriptors until there are `n`. Raises Timeout."""
        taken = self.take_used()
        deadline = time.monotonic() + timeout
        while len(taken) < n:
            if time.monotonic() > deadline:
                raise Timeout(f"{len(taken)} of {n} used descriptors after {timeout} s")
            time.sleep(0.0001)
            taken += self.take_used()
        return taken


def packed_table_of(pieces: Sequence[Piece]) -> bytes:
    """The pieces as an indirect descriptor table."""
    return b"".join(PACKED_DESCRIPTOR.pack(p.addr, p.bytes, 0, p.flags & DESC_F_WRITE) for p in pieces)
