"""What happens to guest memory: a fill pattern, and who wrote where. Invariants I6, I7 and I8."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tests.driver import Memory, Region

Range = tuple[int, int]
"""First guest address, bytes."""


def marker(name: str) -> bytes:
    """Eight bytes that stand all over a guest's memory and belong in no frame."""
    return b"\xf5" + f"{name}-kept"[:6].encode().ljust(6, b"!") + b"\xfa"


def leaks(memory: Memory, name: str) -> list[int]:
    """Where in this memory bytes stand that were never given away by the guest of that name."""
    return [at for region in memory.regions if (at := region.file.find(marker(name))) >= 0]


class WatchedMemory(Memory):
    """Guest memory full of a pattern, with a copy of what the driver wrote: any other change is the device's doing."""

    def __init__(self, regions: Iterable[Region], name: str, *, blank: bool = False) -> None:
        """`blank`: the pattern stands outside the regions only."""
        super().__init__(regions)
        pattern = marker(name)
        self._copies: dict[int, bytearray] = {}
        for region in self.regions:
            # The file whole, beyond the region too: what lies there must show up nowhere and never change.
            region.file[:] = pattern * (len(region.file) // 8) + pattern[: len(region.file) % 8]
            if blank:
                region.file[region.mmap_offset : region.mmap_offset + region.bytes] = bytes(region.bytes)
            self._copies[region.inode] = bytearray(region.file)

    def put_at(self, region: Region, at: int, data: bytes) -> None:
        super().put_at(region, at, data)
        self._copies[region.inode][at : at + len(data)] = data

    def move(self, old: Region, new: Region) -> None:
        """Put a region over another file with the same content."""
        new.file[:] = old.file[:]
        self._copies[new.inode] = self._copies.pop(old.inode)
        self.replace(old, new)

    def accept(self, region: Region) -> None:
        """What is in the file now is what the driver wrote."""
        self._copies[region.inode][:] = region.file[:]

    def changed(self, allowed: Iterable[Range]) -> list[str]:
        """Every place outside the allowed ranges that is not as the driver left it, in words."""
        found = []
        ranges = list(allowed)
        for region in {region.inode: region for region in self.regions}.values():
            # A truncated file must not be touched behind its end, by us no more than by the device.
            end = min(region.file_bytes, os.fstat(region.fd).st_size)
            clear = 0
            for start, stop in sorted(self._in_file(region.inode, ranges)):
                found += self._difference(region, clear, min(start, end))
                clear = max(clear, stop)
            found += self._difference(region, clear, end)
        return found

    def _difference(self, region: Region, start: int, stop: int) -> list[str]:
        copy = self._copies[region.inode]
        # Slices, not memoryviews, which are compared byte by byte.
        if start >= stop or (now := region.file[start:stop]) == copy[start:stop]:
            return []
        first = next(at for at in range(start, stop) if now[at - start] != copy[at])
        was, now = bytes(copy[first : first + 16]), region.file[first : first + 16]
        return [f"byte {first:#x} of the file behind {region.guest_addr:#x}: was {was.hex()}, is {now.hex()}"]

    def _in_file(self, inode: int, ranges: Iterable[Range]) -> Iterable[tuple[int, int]]:
        """The parts of the ranges that lie in this file, as offsets."""
        for region in self.regions:
            for addr, n in ranges if region.inode == inode else ():
                start, stop = max(addr, region.guest_addr), min(addr + n, region.guest_addr + region.bytes)
                if start < stop:
                    yield region.at(start), region.at(stop)
