"""Concurrent rewriting (TOCTOU): descriptors, headers, tables and event areas change while the device reads them.

On every ring format, one after the other, with traffic both ways; for a minute each with `--long`.
The honest pair's rate is measured in turns with as much harmless work (I2). No byte around the guest's memory is
written or sent (I6, I7). Every queue that breaks is reported once, and takes nothing more until it is set up anew (B).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from typing import Any

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR, U16, Piece
from tests.frontend import Closed
from tests.hostile.attack import ring_attack
from tests.hostile.flipper import Flipper, Job
from tests.hostile.invariant import Broken
from tests.hostile.rings import HostilePacked
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region
from tests.hostile.watch import marker
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED, PACKED_DESCRIPTOR

SPAN = 2 << 20
END = GUEST_ADDR + SPAN
QUEUE = 64
SECONDS, LONG = 2.0, 60.0
"""How long the other process rewrites, quiet turns not counted; the second one with --long. One format after the other.

In two seconds the bugs are found that are seeded for it (test_seeded_bugs_are_caught).
Two formats at the same time, on two CPUs, are each rewritten a third to a half as often as one alone, four an eighth.
"""
LEAST_REWRITES = 1000
"""A second. Two to four million are usual on an idle CPU."""
TURNS = 5
"""Turns of rewriting for each quiet one."""
ENOUGH = 250
"""Broken queues, and frames that arrived, for each second. The test goes on until then, for LONGER at most."""
LONGER = 100.0
MOMENT = 0.05
"""Seconds after which a ring of which nothing was taken is set up again."""
LOOK = 0.2
"""Seconds between two broken queues that are checked to stay stopped before they are set up again."""
SLOT = 4096
"""Each descriptor's packet, and an indirect table that leads to it, in a page of its own."""
LENGTHS = [struct.pack("I", n) for n in (72, 0, 12, 25, 26, 60, 72, 1514, 2048, 4000)]
LAST_LAP = struct.Struct("QIH")
ADDRESSES = (END - 36, END, GUEST_ADDR - 8)


class FlippedGuest:
    """A guest that offers buffers without end and sets broken queues up again. Another process rewrites its memory."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.packed = scene.format.packed
        self.own = region(SPAN)
        self.starts = self.unheard = 0
        self.guest = self.boot()
        self.base = self.guest.memory.take(QUEUE * SLOT * 2, align=SLOT)
        self.flipper = Flipper(self.own.fd, [job for index in range(2) for job in self.jobs(index)])
        self.flipping = False
        self.aimed_at = self.rewritten = 0.0
        self.breaks = self.frames = 0
        self.counted_before = scene.arena.drops()["bad_descriptor"]
        self.looked = 0.0
        self.said = [False, False]
        self.moved = [time.monotonic()] * 2
        self.taken = [0, 0]
        self.repair()

    def boot(self) -> Attacker:
        guest = self.scene.boot(regions=[self.own], queue_size=QUEUE, blank=True)
        self.starts += 2
        # Descriptors may name any byte in this region at some time, but none outside of it.
        guest.writable.append((GUEST_ADDR, SPAN))
        return guest

    def slot(self, queue: int, number: int) -> int:
        return self.base + (queue * QUEUE + number) * SLOT

    def descriptor(self, queue: int, number: int) -> tuple[int, int, int]:
        """Address, length and flags as a good driver has them."""
        return self.slot(queue, number), 72 if queue else 2048, 0 if queue else DESC_F_WRITE

    def table(self, queue: int, number: int) -> bytes:
        addr, size, flags = self.descriptor(queue, number)
        ring: Any = self.guest.queues[queue]
        return bytes(ring.table([Piece(addr, 12, bool(flags)), Piece(addr + 12, size - 12, bool(flags))]))

    def repair(self) -> None:
        """Write everything as a good driver has it; in a split ring all descriptors are available."""
        memory = self.guest.memory
        for index, queue in enumerate(self.guest.queues):
            for number in range(QUEUE):
                addr = self.slot(index, number)
                memory.write(addr, bytes(12) + self.scene.frame())
                memory.write(addr + 3072, self.table(index, number))
                if not self.packed:
                    entry = DESCRIPTOR.pack(*self.descriptor(index, number), 0)
                    memory.write(queue.descriptor_area + 16 * number, entry)
                    memory.write(queue.driver_area + 4 + 2 * number, U16.pack(number))

    # What is rewritten

    def jobs(self, queue: int) -> Iterator[Job]:
        """Every fourth slot is rewritten with bad values; the others stay within the rules of the ring."""
        at, ring = self.own.at, self.guest.queues[queue]
        for number in range(QUEUE):
            addr, size, _ = self.descriptor(queue, number)
            where = at(ring.descriptor_area + 16 * number)
            table = self.table(queue, number)
            yield where + 8, [*LENGTHS, struct.pack("I", size)]
            yield at(addr), [bytes(12), b"\1", b"\0\1\4", b"\xff" * 12]
            yield at(addr + 3072), [table]
            yield from self.packed_jobs(queue, number) if self.packed else self.split_jobs(queue, number)
            if number % 4 == 0:
                wild = (*[addr] * 12, *[END - 36] * 6, 0, 2**64 - 8, END - 8, *ADDRESSES)
                yield where, [struct.pack("Q", each) for each in wild]
                yield where + 8, [struct.pack("I", n) for n in (size, size, 0xFFFFFFFF, 0x80000000, SPAN, SPAN + 1)]
                outside = [struct.pack("Q", each) + table[8:] for each in ADDRESSES]
                nested = struct.pack("QI", addr + 3072, 32) + table[12:14] + U16.pack(DESC_F_INDIRECT)
                yield at(addr + 3072), [table] * 6 + outside + [nested]
                yield at(addr + 3072 + 8), [struct.pack("I", n) for n in (12, 12, 0xFFFFFFFF, 0)]
        yield at(ring.device_area), [bytes(2), b"\xff" * 2]
        if self.packed:
            yield at(ring.driver_area), [bytes(4), b"\xff\x7f\2\0", b"\0\x80\2\0", b"\xff" * 4, b"\0\0\1\0"]

    def split_jobs(self, queue: int, number: int) -> Iterator[Job]:
        at, ring = self.own.at, self.guest.queues[queue]
        addr, size, flags = self.descriptor(queue, number)
        where = at(ring.descriptor_area + 16 * number)
        yield where, [DESCRIPTOR.pack(addr, size, flags, 0), DESCRIPTOR.pack(addr + 3072, 32, DESC_F_INDIRECT, 0)]
        yield at(ring.device_area + 4 + 8 * number), [bytes(8), b"\xff" * 8]
        if number % 4 == 0:
            links = [(flags, 0)] * 4 + [(flags | DESC_F_NEXT, n) for n in (number, number + 1, QUEUE, 0xFFFF)]
            links += [(flags ^ DESC_F_WRITE, 0), (flags | DESC_F_INDIRECT | DESC_F_NEXT, 1)]
            yield where + 12, [struct.pack("HH", *link) for link in links]
            yield at(ring.driver_area + 4 + 2 * number), [U16.pack(n) for n in (*[number] * 4, QUEUE, 0xFFFF)]

    def packed_jobs(self, queue: int, number: int) -> Iterator[Job]:
        """Flags are rewritten, too: they make a descriptor available on this lap, on the next, or on neither."""
        where = self.own.at(self.guest.queues[queue].descriptor_area + 16 * number)
        addr, size, flags = self.descriptor(queue, number)
        yield where + 12, [U16.pack(n) for n in (number, number, 0, QUEUE, 0xFFFF)]
        available = [flags | DESC_F_AVAIL, flags | DESC_F_USED]
        if number % 4 < 2:
            good = [PACKED_DESCRIPTOR.pack(addr, size, number, one) for one in available]
            table = [PACKED_DESCRIPTOR.pack(addr + 3072, 32, number, one | DESC_F_INDIRECT) for one in available]
            yield where, good + table
        used = [flags, flags | DESC_F_AVAIL | DESC_F_USED]
        if number % 4 == 0:
            evil = (DESC_F_NEXT, DESC_F_WRITE, DESC_F_INDIRECT, DESC_F_INDIRECT | DESC_F_NEXT)
            odd = [(one ^ bits) & 0xFFFF for one in available for bits in evil]
            yield where + 14, [U16.pack(n) for n in (*available * 6, *used, *odd)]
        elif number % 4 == 1:
            yield where + 14, [U16.pack(n) for n in (*available, *used)]

    # Turns

    def flip(self) -> None:
        if not self.flipping:
            self.flipper.aim(True)
            self.flipping = True
            self.aimed_at = time.monotonic()
        self.pump()
        now = time.monotonic()
        self.rewritten += now - self.aimed_at
        self.aimed_at = now

    def rest(self) -> None:
        if self.flipping:
            self.flipper.aim(False)
            self.flipping = False
            self.scene.pause(0.002)
            self.repair()
            if self.packed:
                for index in range(2):
                    self.restart(index)
        self.pump()

    def restart(self, index: int) -> None:
        self.guest.restart_queue(index)
        queue: Any = self.guest.queues[index]
        for number in range(QUEUE if self.packed else 0):
            # As on any lap but the first: old descriptors are still there, with flags that do not make them available.
            addr, size, _ = self.descriptor(index, number)
            self.guest.memory.write(queue.at(number), LAST_LAP.pack(addr, size, number))
        self.moved[index] = time.monotonic()
        self.starts += 1
        # It may have broken just before it was stopped, or again just now; that cannot be told apart.
        self.said[index] = self.hears_of(index)

    def stays_at_rest(self, index: int) -> None:
        """Check that a broken queue takes nothing more, though buffers are offered and the worker makes rounds."""
        if time.monotonic() < self.looked + LOOK:
            return
        self.scene.let_rounds_pass()
        before = self.handled(index)
        self.offer(index)
        self.traffic()
        self.scene.let_rounds_pass()
        if more := self.handled(index) - before:
            raise Broken("B", f"queue {index} goes on after it was broken: {more} chains")
        self.looked = time.monotonic()

    def handled(self, index: int) -> int:
        """Chains of this queue that became a frame or broke it."""
        counters = self.scene.arena.backend.statistics(self.scene.max_wait)["ports"]["a"]
        way = ("tx", "rx")[index]
        return int(counters[f"{way}_frames"]) + int(counters[f"{way}_dropped"].get("bad_descriptor", 0))

    def breaks_add_up(self) -> None:
        """Check that no queue broke twice without a new start, and that each break was reported."""
        deadline = time.monotonic() + self.scene.max_wait
        while True:
            counted = self.scene.arena.drops()["bad_descriptor"] - self.counted_before
            for index in range(2):
                self.hears_of(index)
            if self.breaks <= counted <= min(self.starts, self.breaks + self.unheard):
                return
            if time.monotonic() > deadline:
                words = f"{self.starts} queues started, {counted} counted as broken, {self.breaks} said so"
                raise Broken("B", f"{words}, {self.unheard} went with their connection")
            self.scene.pause(0.005)

    def hears_of(self, index: int) -> bool:
        """Whether this queue was reported as broken since the last call."""
        try:
            self.breaks += os.eventfd_read(self.guest.errs[index])
        except BlockingIOError:
            return False
        return True

    def stands_still(self, index: int) -> bool:
        """Whether the device has stopped taking.

        On a packed ring rewritten flags may make driver and device disagree about the position: each then waits for the
        other, nothing breaks, and only a new start lets the test go on.
        """
        return time.monotonic() > self.moved[index] + MOMENT

    def offer(self, index: int) -> None:
        """Up to eight buffers more."""
        queue: Any = self.guest.queues[index]
        if not self.packed:
            if (used := queue.used_index) != self.taken[index]:
                self.taken[index], self.moved[index] = used, time.monotonic()
            ahead = (queue.avail_index - used) & 0xFFFF
            queue.set_avail_index(queue.avail_index + min(8, max(0, QUEUE - ahead)))
            return
        for _ in range(8):
            if not self.waits(queue):
                self.moved[index] = time.monotonic()
            elif self.frames % 8:
                return
            number, _ = queue.place_of(0)
            addr, size, flags = self.descriptor(index, number)
            queue.put(0, addr, size, number, flags | queue.marks())
            queue.move_on(1)

    def waits(self, queue: HostilePacked) -> bool:
        """Whether the next descriptor still has the flags of an available one of the lap before."""
        flags = self.guest.memory.load_u16(queue.at(queue.place_of(0)[0]) + 14)
        return flags & (DESC_F_AVAIL | DESC_F_USED) == (DESC_F_AVAIL | DESC_F_USED) ^ queue.marks()

    def pump(self) -> None:
        """Offer, receive, send, and set up queues that broke or have stopped."""
        try:
            for index in range(2):
                if self.hears_of(index):
                    self.stays_at_rest(index)
                    self.restart(index)
                elif self.said[index] or self.stands_still(index):
                    self.restart(index)
                self.offer(index)
        except Closed:
            self.unheard += 2
            self.guest = self.boot()
            self.repair()
        self.traffic()

    def traffic(self) -> None:
        victim = self.scene.victim
        if victim.transmitq.free > 32:
            victim.net.send(self.scene.frame())
        victim.net.reclaim()
        for frame in victim.net.receive_all():
            self.frames += 1
            if marker("attacker") in frame:
                raise Broken("I7", "a frame brings bytes that lie in no memory region")

    def enough(self, seconds: float) -> bool:
        return bool(self.breaks and self.frames) and self.breaks + self.frames >= ENOUGH * seconds

    def end(self) -> None:
        self.flipper.stop()


@ring_attack("double-fetch", "log-every-frame", "bad-ring-goes-on", lasts=True)
def a_second_hand_that_rewrites_descriptors_headers_and_tables(scene: Scene) -> None:
    flipped = FlippedGuest(scene)
    seconds = LONG if scene.arena.endurance > 1.0 else SECONDS
    try:
        scene.in_turns(flipped.flip, flipped.rest, seconds / scene.arena.endurance * (TURNS + 1) / TURNS, attacks=TURNS)
        flipped.breaks_add_up()
        deadline = time.monotonic() + LONGER
        while flipped.rewritten < seconds or not flipped.enough(seconds):
            if time.monotonic() > deadline:
                break
            flipped.flip()
        if flipped.rewritten < seconds:
            raise Broken("reaction", f"memory was rewritten for {flipped.rewritten:.1f} of {seconds:.0f} s")
        if (rewrites := flipped.flipper.rewrites()) < LEAST_REWRITES * flipped.rewritten:
            raise Broken("reaction", f"{rewrites} rewrites in {flipped.rewritten:.1f} s")
    finally:
        flipped.end()
    if not (flipped.breaks and flipped.frames):
        raise Broken("reaction", f"{flipped.breaks} broken queues, {flipped.frames} frames: nothing was tried")
    flipped.breaks_add_up()
    scene.disconnect()
    scene.victim.net.wait_sent(scene.max_wait)
    scene.frames_may_have_arrived()
