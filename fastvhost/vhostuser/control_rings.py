"""The device side of the ring of control commands, in both formats. Virtio 1.2, sections 2.7, 2.8 and 5.1.6.5.

Commands are rare and short, so this is plain Python over copies of a few bytes. What the driver wrote is read once and
checked before use; what breaks the rules is a RingBrokenError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
NO_INTERRUPT = 1
EVENTS_OFF = 1
SPLIT_DESC = struct.Struct("<QIHH")  # address, bytes, flags, next
PACKED_DESC = struct.Struct("<QIHH")  # address, bytes, id, flags
ELEMENT = struct.Struct("<II")
MOST_READ = 8
"""Bytes of a command that are read: class, command, and the data of the longest command that is known."""


class RingBrokenError(Exception):
    """The driver broke a rule of its ring. The text says which."""


class Memory(Protocol):
    """dataplane.guest_memory.GuestMemory. Raises LookupError outside of guest memory."""

    def read(self, guest_addr: int, bytes: int) -> bytes: ...
    def write(self, guest_addr: int, data: bytes) -> None: ...
    def load_u16(self, guest_addr: int) -> int: ...
    def store_u16(self, guest_addr: int, value: int) -> None: ...


class ControlCommand(NamedTuple):
    """A chain: first bytes of the command, address of its answer, head or buffer id, and how many slots it takes."""

    data: bytes
    ack_addr: int
    ident: int
    slots: int


class Areas(NamedTuple):
    """Where a ring lies, in guest addresses."""

    desc: int
    driver: int
    device: int


class ControlRing(Protocol):
    """One ring in one format."""

    @property
    def base(self) -> int:
        """The value that GET_VRING_BASE returns."""

    def take(self) -> ControlCommand | None:
        """The next command, None where there is none. Raises RingBrokenError, LookupError."""

    def finish(self, command: ControlCommand) -> None:
        """Give a chain back whose answer, one byte, was written."""

    def wants_call(self) -> bool:
        """Whether the driver wants a call for the chains that were finished since the last wants_call()."""

    def want_kick(self) -> None:
        """Ask the driver to kick at its next command. What it wrote before is seen by the next take()."""


class _Piece(NamedTuple):
    addr: int
    bytes: int
    writable: bool


def _command(memory: Memory, pieces: Iterable[_Piece], ident: int, slots: int) -> ControlCommand:
    data, ack = b"", None
    for piece in pieces:
        if piece.writable:
            ack = piece.addr if ack is None and piece.bytes else ack
        elif ack is not None:
            raise RingBrokenError("a readable descriptor stands behind a writable one")
        elif len(data) < MOST_READ:
            data += memory.read(piece.addr, min(piece.bytes, MOST_READ - len(data)))
    if ack is None:
        raise RingBrokenError("a control command has no room for its answer")
    memory.read(ack, 1)  # raises where the answer cannot be written, before anything is done
    return ControlCommand(data, ack, ident, slots)


def _table(bytes_long: int, most: int) -> int:
    """Entries of an indirect table. Sections 2.7.5.3.1 and 2.8.19."""
    if bytes_long % 16 or not 0 < bytes_long <= 16 * most:
        raise RingBrokenError(f"an indirect table of {bytes_long} bytes")
    return bytes_long // 16


class SplitControlRing:
    """Section 2.7."""

    def __init__(self, memory: Memory, size: int, areas: Areas, base: int, *, events: bool) -> None:
        self._memory, self._size, self._areas, self._events = memory, size, areas, events
        self._next = base & 0xFFFF
        self._used = self._told = memory.load_u16(areas.device + 2)
        memory.store_u16(areas.device, 0)

    @property
    def base(self) -> int:
        return self._next

    def take(self) -> ControlCommand | None:
        waiting = (self._memory.load_u16(self._areas.driver + 2) - self._next) & 0xFFFF
        if not waiting:
            return None
        if waiting > self._size:
            raise RingBrokenError("the available index ran ahead of the ring")
        head = self._memory.load_u16(self._areas.driver + 4 + 2 * (self._next % self._size))
        command = _command(self._memory, self._chain(head), head, 1)
        self._next = (self._next + 1) & 0xFFFF
        return command

    def _chain(self, index: int) -> Iterator[_Piece]:
        table, entries, indirect, seen = self._areas.desc, self._size, False, 0
        while True:
            if index >= entries:
                raise RingBrokenError(f"descriptor {index} is beyond its table of {entries}")
            addr, size, flags, following = SPLIT_DESC.unpack(self._memory.read(table + 16 * index, 16))
            seen += 1
            if flags & INDIRECT:
                if indirect or flags & NEXT:
                    raise RingBrokenError("an indirect descriptor where none may be")
                table, entries, indirect, index, seen = addr, _table(size, self._size), True, 0, 0
                continue
            yield _Piece(addr, size, bool(flags & WRITE))
            if not flags & NEXT:
                return
            if seen >= entries:
                raise RingBrokenError("a chain without end")
            index = following

    def finish(self, command: ControlCommand) -> None:
        place = self._areas.device + 4 + 8 * (self._used % self._size)
        self._memory.write(place, ELEMENT.pack(command.ident, 1))
        self._used = (self._used + 1) & 0xFFFF
        self._memory.store_u16(self._areas.device + 2, self._used)

    def wants_call(self) -> bool:
        new, old, self._told = self._used, self._told, self._used
        if not self._events:
            return not self._memory.load_u16(self._areas.driver) & NO_INTERRUPT
        event = self._memory.load_u16(self._areas.driver + 4 + 2 * self._size)
        return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF

    def want_kick(self) -> None:
        if self._events:
            self._memory.store_u16(self._areas.device + 4 + 8 * self._size, self._next)


class PackedControlRing:
    """Section 2.8."""

    def __init__(self, memory: Memory, size: int, areas: Areas, base: int) -> None:
        self._memory, self._size, self._areas = memory, size, areas
        if base == 0 and not any(memory.load_u16(self._flags_at(slot)) & USED for slot in range(size)):
            base = 1 << 15  # a ring that was never used, see packed_ring
        # Between two messages no chain is outstanding, so the used index equals the available index.
        self._at, self._wrap = base & 0x7FFF, bool(base >> 15 & 1)
        self._used, self._used_wrap = self._at, self._wrap
        memory.store_u16(areas.device, 0)
        memory.store_u16(areas.device + 2, 0)

    @property
    def base(self) -> int:
        return (self._at | self._wrap << 15) * 0x10001

    def _flags_at(self, slot: int) -> int:
        return self._areas.desc + 16 * slot + 14

    def take(self) -> ControlCommand | None:
        flags = self._memory.load_u16(self._flags_at(self._at))
        if bool(flags & AVAIL) != self._wrap or bool(flags & USED) == self._wrap:
            return None
        pieces: list[_Piece] = []
        at, ident = self._at, 0
        while True:
            addr, size, ident, flags = PACKED_DESC.unpack(self._memory.read(self._areas.desc + 16 * at, 16))
            at = (at + 1) % self._size
            if flags & INDIRECT:
                if pieces or flags & NEXT:
                    raise RingBrokenError("an indirect descriptor where none may be")
                pieces.extend(self._entries(addr, size))
                slots = 1
                break
            pieces.append(_Piece(addr, size, bool(flags & WRITE)))
            slots = len(pieces)
            if not flags & NEXT:
                break
            if slots >= self._size:
                raise RingBrokenError("a chain without end")
        command = _command(self._memory, pieces, ident, slots)
        self._at, self._wrap = self._behind(self._at, self._wrap, slots)
        return command

    def _entries(self, addr: int, size: int) -> Iterator[_Piece]:
        for entry in range(_table(size, self._size)):
            place, n, _, flags = PACKED_DESC.unpack(self._memory.read(addr + 16 * entry, 16))
            yield _Piece(place, n, bool(flags & WRITE))

    def _behind(self, at: int, wrap: bool, slots: int) -> tuple[int, bool]:
        at += slots
        return (at - self._size, not wrap) if at >= self._size else (at, wrap)

    def finish(self, command: ControlCommand) -> None:
        flags = (AVAIL | USED if self._used_wrap else 0) | WRITE
        place = self._areas.desc + 16 * self._used
        self._memory.write(place + 8, struct.pack("<IH", 1, command.ident))
        self._memory.store_u16(place + 14, flags)
        self._used, self._used_wrap = self._behind(self._used, self._used_wrap, command.slots)

    def wants_call(self) -> bool:
        return self._memory.load_u16(self._areas.driver + 2) != EVENTS_OFF

    def want_kick(self) -> None:
        """Nothing to do: kicks were asked for when the ring started."""
