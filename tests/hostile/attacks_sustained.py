"""Attacks that last: memory rewritten while it is read, floods of messages and connections, a thousand rounds.

The honest pair's rate is measured in turns: half of the time as much work is done that harms nobody (I2).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Callable, Iterator

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR, U16, Piece, table_of
from tests.frontend import U64, VERSION, VRING_STATE, Closed, Request, wait_eventfd
from tests.hostile.attack import attack
from tests.hostile.flipper import Flipper, Job
from tests.hostile.invariant import Broken
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region
from tests.hostile.watch import marker

SPAN = 2 << 20
END = GUEST_ADDR + SPAN
QUEUE = 64
SECONDS = 4.0
SLOT = 4096
"""Each descriptor's packet, and an indirect table that leads to it, in a page of its own."""


class FlippedGuest:
    """A guest that offers buffers without end, a second hand in its memory, and sets up again what breaks."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.own = region(SPAN)
        self.guest = self.boot()
        self.base = self.guest.memory.take(QUEUE * SLOT * 2, align=SLOT)
        self.flipper = Flipper(self.own.fd, list(self.jobs()))
        self.flipping = False
        self.breaks = self.frames = 0
        self.repair()

    def boot(self) -> Attacker:
        guest = self.scene.boot(regions=[self.own], queue_size=QUEUE, blank=True)
        # Some descriptor may speak of any byte in here some time; of what lies round it, none may.
        guest.writable.append((GUEST_ADDR, SPAN))
        return guest

    def slot(self, queue: int, number: int) -> int:
        return self.base + (queue * QUEUE + number) * SLOT

    def good(self, queue: int, number: int) -> tuple[bytes, bytes, bytes, bytes]:
        """A slot's descriptor, available entry, packet and table, as a good driver has them."""
        addr, write = self.slot(queue, number), queue == 0
        size = 2048 if write else 72
        table = table_of([Piece(addr, 12, writable=write), Piece(addr + 12, size - 12, writable=write)])
        flags = DESC_F_WRITE if write else 0
        return DESCRIPTOR.pack(addr, size, flags, 0), U16.pack(number), bytes(12) + self.scene.frame(), table

    def repair(self) -> None:
        """Everything as a good driver has it, all of it on offer."""
        for index, queue in enumerate(self.guest.queues):
            for number in range(QUEUE):
                descriptor, entry, packet, table = self.good(index, number)
                self.guest.memory.write(queue.descriptor_area + 16 * number, descriptor)
                self.guest.memory.write(queue.driver_area + 4 + 2 * number, entry)
                self.guest.memory.write(self.slot(index, number), packet)
                self.guest.memory.write(self.slot(index, number) + 3072, table)

    def jobs(self) -> Iterator[Job]:
        """What the second hand does. Every fourth slot turns evil; the others stay within the rules of the ring."""
        at = self.own.at
        for index, queue in enumerate(self.guest.queues):
            flags = DESC_F_WRITE if index == 0 else 0
            for number in range(QUEUE):
                descriptor, entry, packet, table = self.good(index, number)
                addr = self.slot(index, number)
                where = at(queue.descriptor_area + 16 * number)
                indirect = DESCRIPTOR.pack(addr + 3072, 32, DESC_F_INDIRECT, 0)
                yield where, [descriptor, indirect]
                yield where + 8, [struct.pack("I", n) for n in (72, 0, 12, 25, 26, 60, 72, 1514, 2048, 4000)]
                yield at(addr), [bytes(12), b"\1", b"\0\1\4", b"\xff" * 12, packet[:12]]
                yield at(addr + 3072), [table]
                if number % 4:
                    continue
                outside = [DESCRIPTOR.pack(a, 72, flags, 0) for a in (END - 36, END, GUEST_ADDR - 8)]
                yield where, [descriptor] * 4 + outside
                yield where, [struct.pack("Q", a) for a in (addr, addr, 0, END - 8, 2**64 - 8)]
                lengths = [struct.pack("I", n) for n in (0xFFFFFFFF, 0x80000000, SPAN, SPAN + 1)]
                yield where + 8, [descriptor[8:12]] * 4 + lengths
                links = [(flags, 0)] * 4 + [(flags | DESC_F_NEXT, n) for n in (number, number + 1, QUEUE, 0xFFFF)]
                links += [(flags ^ DESC_F_WRITE, 0), (flags | DESC_F_INDIRECT | DESC_F_NEXT, 1)]
                yield where + 12, [struct.pack("HH", *link) for link in links]
                yield at(queue.driver_area + 4 + 2 * number), [entry] * 4 + [U16.pack(QUEUE), U16.pack(0xFFFF)]
                nested = DESCRIPTOR.pack(addr + 3072, 32, DESC_F_INDIRECT, 0)
                yield at(addr + 3072), [table] * 4 + [table[:16] + outside[0], table[:16] + outside[1], nested]
                yield at(addr + 3072 + 8), [struct.pack("I", n) for n in (12, 12, 0xFFFFFFFF, 0)]

    # Turns

    def flip(self) -> None:
        if not self.flipping:
            self.flipper.aim(True)
            self.flipping = True
        self.pump()

    def rest(self) -> None:
        if self.flipping:
            self.flipper.aim(False)
            self.flipping = False
            self.scene.pause(0.002)
            self.repair()
        self.pump()

    def pump(self) -> None:
        """Offer, receive, send, and repair what broke."""
        guest, victim = self.guest, self.scene.victim
        try:
            for index, queue in enumerate(guest.queues):
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(guest.errs[index])
                    self.breaks += 1
                    guest.restart_queue(index)
                ahead = (queue.avail_index - queue.used_index) & 0xFFFF
                queue.set_avail_index(queue.avail_index + min(8, max(0, QUEUE - ahead)))
        except Closed:
            self.guest = self.boot()
            self.repair()
        if victim.transmitq.free > 32:
            victim.net.send(self.scene.frame())
        victim.net.reclaim()
        for frame in victim.net.receive_all():
            self.frames += 1
            if marker("attacker") in frame:
                raise Broken("I7", "a frame brings bytes that lie in no memory region")

    def end(self) -> None:
        self.flipper.stop()


@attack("double-fetch", "log-every-frame", "bad-ring-goes-on", lasts=True)
def a_second_hand_that_rewrites_descriptors_headers_and_tables_for_a_minute(scene: Scene) -> None:
    flipped = FlippedGuest(scene)
    try:
        scene.in_turns(flipped.flip, flipped.rest, 60.0)
    finally:
        flipped.end()
    if not (flipped.breaks and flipped.frames):
        raise Broken("reaction", f"{flipped.breaks} broken queues, {flipped.frames} frames: nothing was tried")
    scene.disconnect()
    scene.victim.net.wait_sent(scene.patience)
    scene.frames_may_have_arrived()


# Floods of messages, against as many that ask for nothing


def flood(scene: Scene, message: Callable[[Attacker, int], object]) -> None:
    guest = scene.boot()
    numbers = itertools.count()
    scene.worker_keeps_its_pace(lambda: message(guest, next(numbers)))
    scene.in_turns(lambda: message(guest, next(numbers)), lambda: guest.frontend.ask(Request.GET_FEATURES), SECONDS)
    guest.restart_queue(1)
    scene.forget_drops()
    scene.works(guest)


@attack("slow-door", lasts=True)
def memory_tables_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.frontend.set_mem_table(guest.memory.regions))


@attack("slow-door", lasts=True)
def rings_enabled_and_disabled_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, i: guest.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(1, i % 2)))


@attack("slow-door", lasts=True)
def call_file_descriptors_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [guest.calls[1]]))


@attack("slow-door", lasts=True)
def rings_stopped_and_started_without_end(scene: Scene) -> None:
    flood(scene, lambda guest, _: guest.restart_queue(1))


@attack("slow-door", lasts=True)
def rings_broken_and_started_without_end(scene: Scene) -> None:
    def break_it(guest: Attacker, _: int) -> None:
        guest.transmitq.write_descriptor(0, GUEST_ADDR, 0, DESC_F_NEXT, 0)
        guest.fire(0)
        wait_eventfd(guest.errs[1], scene.patience)
        guest.restart_queue(1)

    flood(scene, break_it)


@attack("one-for-all", "port-dies", lasts=True)
def connections_without_end(scene: Scene) -> None:
    """Opened, used to say something wrong, and closed; in turns with good ones that ask a question."""

    def bad() -> None:
        frontend = scene.connect()
        frontend.send(Request.SET_VRING_NUM, VRING_STATE.pack(77, 1))
        frontend.close()

    scene.in_turns(bad, lambda: scene.connect().close(), SECONDS)


# A thousand rounds


def one_round(scene: Scene, number: int) -> None:
    """Connect, pass a frame, break a queue or leave a message half sent, and vanish."""
    guest = scene.boot(regions=[region(1 << 18)], queue_size=64)
    scene.works(guest)
    if number % 3 == 0:
        guest.transmitq.write_descriptor(0, GUEST_ADDR, 0, DESC_F_NEXT, 0)
        guest.fire(0)
    elif number % 3 == 1:
        guest.frontend.send_raw(struct.pack("<III", Request.SET_MEM_TABLE, VERSION, 40) + bytes(7), guest.calls)
    else:
        guest.memory.regions[0].truncate(0)
    scene.disconnect()
    scene.let_go()


@attack("mapping-leak", "memory-leak", "fd-leak", lasts=True)
def a_thousand_rounds(scene: Scene) -> None:
    """I5: mappings and resident memory are as they were, give or take what an allocator keeps."""
    backend = scene.arena.backend
    rounds = round(1000 * scene.arena.endurance)
    for number in range(30):
        one_round(scene, number)
    scene.arena.wait_released()
    mappings, resident = backend.mappings(), backend.resident_bytes()
    for number in range(rounds):
        one_round(scene, number)
    scene.arena.wait_released()
    scene.forget_drops()
    more = backend.mappings() - mappings, backend.resident_bytes() - resident
    if more[0] > 2 or more[1] > 1 << 20:
        raise Broken("I5", f"after {rounds} rounds there are {more[0]} mappings and {more[1]} resident bytes more")
