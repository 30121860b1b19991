"""The broken back-end's memory and what its queues share: translation, descriptors, notifications.

Guest memory is never mapped: pread and pwrite on the regions' files cannot fault, which is the one reason why this much
Python survives hostile guests.
"""

from __future__ import annotations

import functools
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from tests.hostile.broken.bugs import bug, die
from tests.hostile.broken.resfd import Signaller

INDIRECT_DESC, PACKED, IN_ORDER = 1 << 28, 1 << 34, 1 << 35
NEXT, WRITE, INDIRECT = 1, 2, 4
TOP = 2**64
DESC = struct.Struct("<QIHH")
MEANWHILE, SELDOM = 0.0005, 0.004
"""Seconds that a rewriting process gets between two reads of a descriptor, and seconds between two such waits."""


@functools.cache
def signaller() -> Signaller:
    """Made when it is first needed: a context belongs to one process, and this one is forked from a prepared one."""
    return Signaller()


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


Area = tuple[Region, int]
"""Where a ring lies: a region and an offset in it."""


class Chain(NamedTuple):
    """What a ring gives out and takes back."""

    ticket: int
    """A head, or a buffer id."""
    pieces: list[tuple[int, int]]
    """Its buffers, as (address, bytes)."""
    slots: int = 1
    """Entries of the ring that it occupies."""


class Format(Protocol):
    """One ring format at work, from a queue's start to its stop."""

    def peek(self, ahead: Sequence[Chain]) -> Chain | None:
        """The available chain behind those, if there is one."""

    def skip(self, *chains: Chain) -> None:
        """These were taken."""

    def give_back(self, *used: tuple[Chain, int]) -> bool:
        """Return chains, with the bytes written into each, all at once. Whether the driver wants to hear of it."""

    def give_back_batch(self, chains: Sequence[Chain], told: Chain, n: int) -> bool:
        """The same for a batch, by this one's name and with its length alone. Sections 2.7.9 and 2.8.8."""

    def skip_all(self) -> None:
        """Whatever is available now is forgotten."""

    def give_back_bad(self) -> None:
        """What is next breaks a rule, and comes back as if it were any chain."""

    def move(self, areas: list[Area]) -> None:
        """The same ring, in memory that was mapped anew."""

    def base(self) -> int:
        """What GET_VRING_BASE answers."""


class Table:
    """Guest memory: regions by guest address."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions

    def spans(self, addr: int, n: int, *, believed: bool = False) -> Iterator[tuple[Region, int, int]]:
        """The range as pieces of regions, checked by subtraction, unless it is believed."""
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
                if believed:
                    yield self.around(addr, n)
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

    def around(self, addr: int, n: int) -> tuple[Region, int, int]:
        """Outside memory, as who does not look meets it: first the rest of the file, then nothing."""
        region = self.regions[0]
        at = addr - region.guest
        if not 0 <= region.offset + at <= os.fstat(region.fd).st_size - n:
            die(f"{n} bytes at guest address {addr:#x}")
        return region, at, n

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
        spans = self.spans(addr, n, believed=bug("double-fetch"))
        return b"".join(region.read(at, part) for region, at, part in spans)

    def entry(self, addr: int) -> bytes:
        """A descriptor in an indirect table."""
        return self.read(addr, DESC.size)

    def write(self, addr: int, data: bytes) -> None:
        for region, at, part in self.spans(addr, len(data), believed=bug("double-fetch")):
            region.write(at, data[:part])
            data = data[part:]


class Queue:
    """The device side of one virtqueue."""

    descriptors = 0
    """Read so far, by all queues: what a turn is measured by."""
    waited = 0.0
    """When a rewriting process was last waited for."""

    def __init__(self, port: HasMemory, index: int, formats: dict[bool, type[Format]]) -> None:
        self.port, self.index, self.formats = port, index, formats
        self.fds = {"kick": -1, "call": -1, "err": -1}
        self.size = 0
        self.base: int | None = None
        self.enabled = self.live = self.broken = self.ever_broken = False
        self.user: tuple[int, int, int] | None = None
        self.ring: Any = None
        self.batch: list[tuple[Chain, int]] = []
        self.burst_length = 0

    @property
    def packed(self) -> bool:
        return bool(self.port.features & PACKED)

    def areas(self) -> list[Area]:
        assert self.user is not None
        sizes = (16 * self.size, 4, 4) if self.packed else (16 * self.size, 6 + 8 * self.size, 6 + 2 * self.size)
        return [self.port.table.at_user(u, n) for u, n in zip(self.user, sizes, strict=True)]

    def translate(self) -> None:
        self.ring.move(self.areas())

    def start(self) -> None:
        if self.user is None and bug("ready-too-early"):
            die("no ring addresses")
        odd = self.size & (self.size - 1) and (not self.packed or bug("power-of-two-only"))
        if not 0 < self.size <= (1024 if bug("small-queues-only") else 32768) or odd:
            if bug("ring-values-unchecked"):
                die("ring size")
            raise Illegal(f"ring size {self.size}")
        if self.user is None:
            raise Illegal("no ring addresses")
        aligned = (16, 4, 4 if self.packed else 2)
        if any(u % n for u, n in zip(self.user, aligned, strict=True)) and not bug("ring-values-unchecked"):
            raise Illegal("a ring is misaligned")
        self.ring = self.formats[self.packed](self, self.areas())
        self.live, self.broken = True, self.ever_broken and bug("no-recovery")

    def peek(self, ahead: Sequence[Chain] = ()) -> Chain | None:
        return self.ring.peek(ahead) if self.live and not self.broken else None

    def skip(self, *chains: Chain) -> None:
        self.ring.skip(*chains)

    def give_back(self, *used: tuple[Chain, int]) -> None:
        if self.ring.give_back(*used) and self.fds["call"] >= 0:
            self.notify("call")

    def done(self, chain: Chain) -> None:
        """Nothing was written into it. With IN_ORDER it is told with all others of this turn."""
        if self.port.features & IN_ORDER:
            self.batch.append((chain, 0))
        else:
            self.give_back((chain, 0))

    def filled(self, *used: tuple[Chain, int]) -> None:
        """A frame was written into these. Each is told by itself, with its own length, whatever comes in its turn."""
        self.burst_length = self.burst_length or used[0][1]
        if bug("burst-length") and self.packed:
            used = tuple((chain, self.burst_length) for chain, _ in used)
        if bug("receive-batch") and self.port.features & IN_ORDER:
            self.batch += used
        else:
            self.give_back(*used)

    def end_turn(self) -> None:
        self.burst_length = 0
        if not self.batch:
            return
        used, self.batch = self.batch, []
        if bug("batch-forgets-one") and len(used) > 1:
            used.pop()
        chains = [chain for chain, _ in used]
        told, n = used[0 if bug("batch-told-by-first") else -1]
        if bug("batch-length") and len(chains) > 1:
            n = sum(length for chain in chains for _, length in chain.pieces)
        if self.ring.give_back_batch(chains, told, n) and self.fds["call"] >= 0:
            self.notify("call")

    def settled(self, addr: int, n: int, read: Callable[[int], bytes], at: int) -> tuple[int, int]:
        """The address and length that were checked; or those that stand there by now, which nobody checked."""
        if not bug("double-fetch"):
            return addr, n
        if self.ever_broken and time.monotonic() > Queue.waited + SELDOM:
            time.sleep(MEANWHILE)
            Queue.waited = time.monotonic()
        addr, n, *_ = DESC.unpack(read(at))
        return addr, n

    def check_piece(self, addr: int, n: int, flags: int) -> None:
        if bool(flags & WRITE) != (self.index % 2 == 0) and not bug("write-flag-ignored"):
            raise Bad("a descriptor of the wrong direction")
        list(self.port.table.spans(addr, n))

    def check_table(self, addr: int, n: int, flags: int) -> None:
        """An indirect descriptor, and the table that it leads to."""
        if flags & NEXT and not bug("indirect-and-next"):
            raise Bad("an indirect descriptor out of place")
        if not self.port.features & INDIRECT_DESC and not bug("indirect-unasked"):
            raise Bad("an indirect descriptor without the feature")
        if bug("indirect-write-flag") and bool(flags & WRITE) != (self.index % 2 == 0):
            raise Bad("the wrong direction")
        if (n % 16 or not n) and not bug("odd-table"):
            raise Bad(f"an indirect table of {n} bytes")
        if (bug("table-as-long-as-queue") and n > 16 * self.size) or (bug("aligned-tables-only") and addr % 16):
            raise Bad("an unusual indirect table")
        list(self.port.table.spans(addr, n - n % 16 if not bug("odd-table") else 0))

    def notify(self, kind: str) -> None:
        """Write the call or err eventfd, whatever it really is, without waiting."""
        try:
            if not bug("blocking-call") and signaller().signal(self.fds[kind]):
                return
            os.set_blocking(self.fds[kind], bug("blocking-call"))
            os.write(self.fds[kind], struct.pack("<Q", 1))
        except OSError as error:
            if bug("write-error-crash"):
                die(f"{kind}: {error}")

    def stop(self) -> None:
        if self.live:
            self.live, self.base = False, self.ring.base()
