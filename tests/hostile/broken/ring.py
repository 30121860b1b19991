"""The broken back-end's memory and rings: translation, chains, notifications. Virtio 1.2, section 2.7.

Guest memory is never mapped: pread and pwrite on the regions' files cannot fault, which is the one reason why this much
Python survives hostile guests.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from tests.hostile.broken.bugs import bug, die

INDIRECT_DESC = 1 << 28
NEXT, WRITE, INDIRECT = 1, 2, 4
TOP = 2**64
DESC = struct.Struct("<QIHH")


class Bad(Exception):
    """The ring breaks a rule: reaction B."""


class Illegal(Exception):
    """The message breaks a rule: reaction A."""


class Fault(Exception):
    """Guest memory is gone: reaction A."""


class HasMemory(Protocol):
    """What a queue wants to know of its port."""

    table: Table
    features: int


class Region(NamedTuple):
    guest: int
    size: int
    user: int
    offset: int
    fd: int

    def read(self, at: int, n: int) -> bytes:
        data = os.pread(self.fd, n, self.offset + at)
        if len(data) < n:
            if bug("no-sigbus"):
                os.kill(os.getpid(), signal.SIGBUS)
            raise Fault(f"the file behind guest address {self.guest:#x} became shorter")
        return data

    def write(self, at: int, data: bytes) -> None:
        self.read(at, len(data))
        os.pwrite(self.fd, data, self.offset + at)


class Table:
    """Guest memory: regions by guest address."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions

    def spans(self, addr: int, n: int) -> Iterator[tuple[Region, int, int]]:
        """The range as pieces of regions, checked by subtraction."""
        while n:
            for region in self.regions:
                at = (addr - region.guest) & (TOP - 1)
                if at < region.size + (4096 if bug("behind-is-inside") else 0):
                    break
                if bug("range-by-addition") and (addr + n) & (TOP - 1) <= region.guest + region.size:
                    yield region, 0, min(n, 4096)
                    return
            else:
                if bug("nowhere-is-zeros"):
                    return
                raise Bad(f"address {addr:#x} lies in no region")
            if bug("sloppy-range"):
                yield region, at, min(n, 4096)
                return
            if bug("no-region-span") and n > region.size - at:
                raise Bad("a buffer spans regions")
            part = n if bug("behind-is-inside") else min(n, region.size - at)
            yield region, at, part
            addr, n = addr + part, n - part

    def check(self) -> None:
        """Every file is as long as its region wants it, or was and a write of ours made it longer again."""
        for region in self.regions:
            if os.fstat(region.fd).st_size < region.offset + region.size and not bug("no-fstat"):
                region.read(region.size - 1, 1)
                raise Fault("a file changed its length")

    def at_user(self, user: int, n: int) -> tuple[Region, int]:
        for region in self.regions:
            at = user - region.user
            if 0 <= at < region.size and n <= region.size - at:
                return region, at
        raise Illegal(f"a ring at {user:#x} lies in no shared memory region")

    def read(self, addr: int, n: int) -> bytes:
        return b"".join(region.read(at, part) for region, at, part in self.spans(addr, n))

    def write(self, addr: int, data: bytes) -> None:
        for region, at, part in self.spans(addr, len(data)):
            region.write(at, data[:part])
            data = data[part:]


class Queue:
    """The device side of one split virtqueue."""

    descriptors = 0
    """Read so far, by all queues: what a turn is measured by."""

    def __init__(self, port: HasMemory, index: int) -> None:
        self.port, self.index = port, index
        self.fds = {"kick": -1, "call": -1, "err": -1}
        self.size = self.base = 0
        self.enabled = self.live = self.broken = self.ever_broken = False
        self.last_head = -1
        self.user: tuple[int, int, int] | None = None

    def translate(self) -> None:
        assert self.user is not None
        sizes = (16 * self.size, 6 + 8 * self.size, 6 + 2 * self.size)
        areas = [self.port.table.at_user(u, n) for u, n in zip(self.user, sizes, strict=True)]
        self.desc, self.used, self.avail = areas

    def start(self) -> None:
        if self.user is None and bug("ready-too-early"):
            die("no ring addresses")
        if not 0 < self.size <= (1024 if bug("small-queues-only") else 32768) or self.size & (self.size - 1):
            if bug("ring-values-unchecked"):
                die("ring size")
            raise Illegal(f"ring size {self.size}")
        if self.user is None:
            raise Illegal("no ring addresses")
        if any(u % align for u, align in zip(self.user, (16, 4, 2), strict=True)) and not bug("ring-values-unchecked"):
            raise Illegal("a ring is misaligned")
        self.translate()
        self.next_avail = self.next_used = self.base
        self.last_head = -1
        self.live, self.broken = True, self.ever_broken and bug("no-recovery")

    def u16(self, area: tuple[Region, int], at: int) -> int:
        return int.from_bytes(area[0].read(area[1] + at, 2), "little")

    def available(self) -> int:
        if not self.live or self.broken:
            return 0
        n = (self.u16(self.avail, 2) - self.next_avail) & 0xFFFF
        if n > self.size and not bug("no-avail-jump-check"):
            raise Bad(f"avail index is {n} ahead of {self.next_avail}: {self.u16(self.avail,2)}")
        return n

    def head(self, ahead: int = 0) -> int:
        head = self.u16(self.avail, 4 + 2 * ((self.next_avail + ahead) % self.size))
        if head >= self.size and not bug("no-head-check"):
            raise Bad(f"head {head} is beyond the queue")
        if bug("twice-is-once") and head == self.last_head:
            raise Bad("a head twice")
        return head

    def chain(self, head: int) -> list[tuple[int, int]]:
        """The buffers of a chain, as (address, bytes)."""
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
                if (table and not bug("nested-indirect")) or (flags & NEXT and not bug("indirect-and-next")):
                    raise Bad("an indirect descriptor out of place")
                if not self.port.features & INDIRECT_DESC and not bug("indirect-unasked"):
                    raise Bad("an indirect descriptor without the feature")
                if bug("indirect-only-first") and index != head:
                    raise Bad("an indirect descriptor behind others")
                if bug("indirect-write-flag") and bool(flags & WRITE) != (self.index % 2 == 0):
                    raise Bad("the wrong direction")
                if (n % 16 or not n) and not bug("odd-table"):
                    raise Bad(f"an indirect table of {n} bytes")
                if (bug("table-as-long-as-queue") and n > 16 * size) or (bug("aligned-tables-only") and addr % 16):
                    raise Bad("an unusual indirect table")
                list(self.port.table.spans(addr, n - n % 16 if not bug("odd-table") else 0))
                read = lambda i, addr=addr: self.port.table.read(addr + 16 * i, 16)  # type: ignore[misc]  # noqa: E731
                size, left = n // 16, 65536 if bug("no-table-bound") else max(n // 16, 1)
                index, table = 0, True
                continue
            if bool(flags & WRITE) != (self.index % 2 == 0) and not bug("write-flag-ignored"):
                raise Bad("a descriptor of the wrong direction")
            list(self.port.table.spans(addr, n))
            if bug("double-fetch"):
                time.sleep(0.001)
                addr, n = DESC.unpack(read(index))[:2]
                if any(at + part > r.size for r in self.port.table.regions if (at := addr - r.guest, part := n)):
                    die("read twice")
            pieces.append((addr, n))
            if bug("stale-next") and following >= size:
                raise Bad("a next beyond the queue")
            if not flags & NEXT or (bug("empty-piece-ends") and not n):
                return pieces
            index = following
            if index >= size and not bug("no-table-bound" if table else "no-next-check"):
                raise Bad(f"next {index} leads out of its table")

    def give_back(self, *used: tuple[int, int]) -> None:
        """Return chains as (head, bytes written), with one store of the index, and tell the driver."""
        region, at = self.used
        for head, n in used:
            region.write(at + 4 + 8 * (self.next_used % self.size), struct.pack("<II", head, n))
            self.next_used = (self.next_used + 1) & 0xFFFF
            self.last_head = head
        region.write(at + 2, struct.pack("<H", self.next_used))
        if self.fds["call"] >= 0 and not self.u16(self.avail, 0) & 1:
            self.notify("call")

    def notify(self, kind: str) -> None:
        """Write the call or err eventfd, whatever it really is, without waiting."""
        try:
            os.set_blocking(self.fds[kind], bug("blocking-call"))
            os.write(self.fds[kind], struct.pack("<Q", 1))
        except OSError as error:
            if bug("write-error-crash"):
                die(f"{kind}: {error}")

    def stop(self) -> None:
        if self.live:
            self.live, self.base = False, self.next_avail

