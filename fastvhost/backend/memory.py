"""The memory a front-end shares: which regions are mapped now, and how the table changes. vhost-user, "Memory access".

The slow part, mapping and checking, comes before the port hears of it; the port swaps tables by itself; what is no
longer used is unmapped last. A change that fails leaves the old table as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from fastvhost.backend import foreign_files
from fastvhost.backend.changes import Changes
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.foreign_files import GuestFile
from fastvhost.backend.payload import SharedRegion
from fastvhost.backend.sizes import readable
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping

MAX_SLOTS = 509
"""As libvhost-user and Linux vhost have it. It must never shrink: QEMU refuses a back-end whose number went down."""


class AnyMapping(Protocol):
    """What this room needs of a mapping."""

    def close(self) -> None: ...


class MemoryMaker(NamedTuple):
    """Makes mappings and tables; tests have their own. Both functions raise ValueError with a sentence."""

    mapping: Callable[[int, int, int, int, int, int], AnyMapping]
    table: Callable[[Sequence[Any]], Any]
    most_bytes: int = 0
    """The most bytes that one front-end may have mapped; 0: as many as this machine has."""
    any_file: bool = False
    """Whether a file on a disk's file system is taken, too."""


REAL_MEMORY = MemoryMaker(Mapping, GuestMemory)


class _Slot(NamedTuple):
    region: SharedRegion
    mapping: AnyMapping
    file: GuestFile
    pin: foreign_files.Pin
    times_added: int = 1
    """QEMU before 8.0 adds and removes each region once for each queue pair."""


class SharedMemory:
    """Owns the mappings of one front-end. install is VirtioPort.set_memory; an empty table is None to it.

    What is no longer used is unmapped when `changes` have taken effect.
    """

    def __init__(self, install: Callable[[Any], Iterable[int]], changes: Changes, maker: MemoryMaker) -> None:
        self._install = install
        self._changes = changes
        self._maker = maker
        self._slots: tuple[_Slot, ...] = ()

    @property
    def regions(self) -> tuple[SharedRegion, ...]:
        return tuple(slot.region for slot in self._slots)

    @property
    def files(self) -> tuple[tuple[int, int], ...]:
        """Device and inode of the file of each region."""
        return tuple(slot.file.identity for slot in self._slots)

    @property
    def bytes(self) -> int:
        return sum(slot.region.bytes for slot in self._slots)

    @property
    def untouched(self) -> int:
        """Bytes of the mapped files that have no page yet.

        The kernel charges a page to the process that touches it first.
        """
        files = {slot.file.identity: slot.file for slot in self._slots}.values()
        return max(0, min(self.bytes, sum(file.bytes - file.allocated for file in files)))

    def replace(self, regions: Sequence[SharedRegion], fds: Sequence[int]) -> tuple[int, ...]:
        """SET_MEM_TABLE: replace the table in one step. Returns the live rings that lie in none of the new regions."""
        files = [self._examine(fd) for fd in fds]
        self._check_limit(_mapped_bytes(region, file) for region, file in zip(regions, files, strict=True))
        fresh = self._map(zip(regions, fds, files, strict=True))
        return self._swap(fresh, fresh=fresh, stale=self._slots)

    def add(self, region: SharedRegion, fd: int) -> tuple[int, ...]:
        """ADD_MEM_REG.

        The same region of the same file may be added several times; it goes when it was removed as often.
        """
        file = self._examine(fd)
        for slot in self._slots:
            if (slot.region, slot.file.identity) == (region, file.identity):
                return self._recount(slot, 1)
        if len(self._slots) >= MAX_SLOTS:
            raise ProtocolError(f"a region beyond the {MAX_SLOTS} slots there are")
        others = [_mapped_bytes(slot.region, slot.file) for slot in self._slots]
        self._check_limit([*others, _mapped_bytes(region, file)])
        fresh = self._map([(region, fd, file)])
        return self._swap((*self._slots, *fresh), fresh=fresh, stale=())

    def remove(self, region: SharedRegion) -> tuple[int, ...]:
        """REM_MEM_REG: found by guest address, user address and size; the mmap offset does not count."""
        key = (region.guest_addr, region.user_addr, region.bytes)
        for slot in self._slots:
            if (slot.region.guest_addr, slot.region.user_addr, slot.region.bytes) == key:
                if slot.times_added > 1:
                    return self._recount(slot, -1)
                kept = tuple(other for other in self._slots if other is not slot)
                return self._swap(kept, fresh=(), stale=(slot,))
        raise ProtocolError(f"no region at guest address {region.guest_addr:#x} of {region.bytes} bytes to remove")

    def _recount(self, slot: _Slot, more: int) -> tuple[int, ...]:
        counted = slot._replace(times_added=slot.times_added + more)
        self._slots = tuple(counted if other is slot else other for other in self._slots)
        return ()

    def close(self) -> None:
        """Take the table away from the port and unmap everything. Idempotent."""
        if self._slots:
            self._swap((), fresh=(), stale=self._slots)

    def _examine(self, fd: int) -> GuestFile:
        return foreign_files.examine(fd, any_file=self._maker.any_file)

    def _check_limit(self, sizes: Iterable[int]) -> None:
        """Before mapping: all ports share one address space, and a sparse file of any size costs its owner nothing."""
        total, limit = sum(sizes), self._maker.most_bytes
        whose = "its memory= says so"
        if not limit:
            limit, whose = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE"), "what this machine has"
        if total > limit:
            raise ProtocolError(
                f"guest memory of {readable(total)} in all, and the port's limit is {readable(limit)}, {whose}; "
                "for so large a guest give the port memory=BYTES, such as memory=64G"
            )

    def _map(self, parts: Iterable[tuple[SharedRegion, int, GuestFile]]) -> tuple[_Slot, ...]:
        slots: list[_Slot] = []
        done = False
        try:
            for region, fd, file in parts:
                pin = foreign_files.Pin(fd)
                try:
                    mapping = self._maker.mapping(
                        fd, region.guest_addr, region.bytes, region.user_addr, region.mmap_offset, file.page
                    )
                except BaseException:
                    pin.release()
                    raise
                slots.append(_Slot(region, mapping, file, pin))
        except (ValueError, OSError) as error:
            raise ProtocolError(str(error)) from error
        else:
            done = True
            return tuple(slots)
        finally:
            if not done:
                _unmap(slots)

    def _swap(self, slots: tuple[_Slot, ...], *, fresh: Sequence[_Slot], stale: Sequence[_Slot]) -> tuple[int, ...]:
        try:
            table = self._maker.table([slot.mapping for slot in slots]) if slots else None
            lost = tuple(self._install(table))
        except ValueError as error:
            _unmap(fresh)
            raise ProtocolError(str(error)) from error
        self._slots = slots
        if stale:
            self._changes.then(lambda: _unmap(stale))
        return lost


def _mapped_bytes(region: SharedRegion, file: GuestFile) -> int:
    """Bytes of address space that it takes: whole pages."""
    return -(-(region.mmap_offset % file.page + region.bytes) // file.page) * file.page


def _unmap(slots: Iterable[_Slot]) -> None:
    for slot in slots:
        slot.mapping.close()
        slot.pin.release()
