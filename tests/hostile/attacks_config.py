"""Attacks with the device's configuration (GET_CONFIG, SET_CONFIG) and on the control queue, where fwd serves it.

Virtio 1.2, sections 5.1.4 and 5.1.6.5. A bad command breaks the control queue and nothing else: its err eventfd is
written, the rings for frames go on, and set up anew it serves again.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from typing import Any

from tests.driver import DESC_F_NEXT, DESC_F_WRITE, Piece
from tests.frontend import (
    F_PROTOCOL_FEATURES,
    F_VERSION_1,
    FEATURES,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_FEATURES,
    Frontend,
    Request,
    readable,
    wait_eventfd,
)
from tests.hostile.attack import attack, split_attack
from tests.hostile.invariant import Broken
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region

PORT, PAIRS = "k", 2
CONTROL = 2 * PAIRS
SIZE = 64
NET_F_MAC, NET_F_CTRL_VQ, NET_F_MQ = 1 << 5, 1 << 17, 1 << 22
OK, ERROR = 0, 1
USE_TWO = struct.pack("<BBH", 4, 0, 2)
"""VQ_PAIRS_SET."""
NO_SPACE = "a configuration space: it has none"
NO_QUEUE = "a control queue: it has none"


def space(offset: int, size: int, data: bytes | None = None, flags: int = 0) -> bytes:
    """The payload of both requests. Without data, as many bytes as it says."""
    return struct.pack("=III", offset, size, flags) + (bytes(size) if data is None else data)


def asking(scene: Scene, features: int = FEATURES, *, acks: bool = True) -> Frontend:
    """A front-end that may ask, with everything offered of what it wants."""
    frontend = scene.connect(PORT)
    frontend.negotiate(features, PROTOCOL_F_CONFIG | PROTOCOL_F_REPLY_ACK * acks)
    return frontend


@attack(beyond_mini=NO_SPACE, ringless=True)
def configuration_beyond_its_end_and_of_every_wrong_length(scene: Scene) -> None:
    frontend = asking(scene)
    inside = ((0, 24), (0, 0), (23, 1), (24, 0))
    for offset, size in (*inside, (24, 1), (0, 256), (2**31, 12), (2**32 - 1, 1), (2**32 - 1, 256)):
        for flags in (0, 2**32 - 1):
            reply = frontend.ask(Request.GET_CONFIG, space(offset, size, flags=flags))
            if len(reply) != (12 + size if (offset, size) in inside else 0):
                raise Broken("A", f"{size} bytes at {offset} were answered with {len(reply)}")
    frontend.close()
    for size, data in ((0, 1), (12, 0), (256, 12), (257, 257), (2**31, 12), (2**32 - 1, 12), (2**32 - 12, 0)):
        frontend = asking(scene, acks=size % 2 == 0)
        scene.refused(frontend, Request.GET_CONFIG, space(0, size, bytes(data)))
        frontend.close()


@attack(beyond_mini=NO_SPACE, ringless=True)
def configuration_written_by_who_may_not(scene: Scene) -> None:
    """A modern driver may write nothing; one from before virtio 1.0 only the MAC."""
    beyond = ((6, 1), (5, 2), (0, 7), (0, 0), (23, 1), (24, 8), (2**32 - 1, 1), (2**32 - 1, 256))
    for features in (FEATURES | NET_F_MAC, F_PROTOCOL_FEATURES):
        frontend = asking(scene, features)
        for offset, size in ((0, 6), (0, 1), *beyond):
            scene.refused(frontend, Request.SET_CONFIG, space(offset, size))
        frontend.close()
    legacy = asking(scene, (FEATURES | NET_F_MAC) & ~F_VERSION_1)
    for offset, size in beyond:
        scene.refused(legacy, Request.SET_CONFIG, space(offset, size))
    scene.refused(legacy, Request.SET_CONFIG, space(0, 6, flags=1))
    legacy.tell(Request.SET_CONFIG, space(2, 3, b"\xaa\xbb\xcc"))
    if (mac := legacy.ask(Request.GET_CONFIG, space(0, 6))[12:].hex(":")) != "52:54:aa:bb:cc:0b":
        raise Broken("A", f"the MAC is {mac}")
    legacy.close()
    silent = asking(scene, acks=False)
    scene.refused(silent, Request.SET_CONFIG, space(0, 6))


# The control queue


class Commander:
    """An attacker with both pairs' first rings and, behind all of them, the control queue."""

    def __init__(self, scene: Scene, *more: Any) -> None:
        self._scene = scene
        self.guest: Attacker = scene.boot(
            port=PORT,
            regions=more,
            features=FEATURES | NET_F_MQ | NET_F_CTRL_VQ,
            protocol_features=PROTOCOL_FEATURES | PROTOCOL_F_CONFIG,
        )
        self.queue: Any = scene.format.queue(self.guest.memory, SIZE)
        self.guest.queues = (*self.guest.queues, self.queue)
        self.kick, self.call, self.err = (scene.eventfd() for _ in range(3))
        self._set_up()

    def _set_up(self) -> None:
        frontend = self.guest.frontend
        frontend.set_up_queue(CONTROL, self.queue, kick=self.kick, call=self.call, err=self.err)

    def answer(self) -> Piece:
        """A byte for one."""
        return self.guest.room(1)[0]

    def offer(self, *chains: Sequence[Piece]) -> None:
        self.queue.offer(*(self.queue.chain(pieces) for pieces in chains))
        os.eventfd_write(self.kick, 1)

    def tell(self, command: bytes, *sizes: int) -> int:
        """Its answer. `sizes`: of the pieces before the last."""
        answer = self.answer()
        self.offer([*self.guest.pieces(command, sizes), answer])
        self.queue.wait_used(1, self._scene.max_wait)
        return self.guest.memory.read(answer.addr, 1)[0]

    def answered(self, command: bytes, expected: int, *sizes: int) -> None:
        if (answer := self.tell(command, *sizes)) != expected:
            raise Broken("A", f"command {command[:8].hex()} of {len(command)} bytes is answered {answer}")

    def served(self) -> bool:
        """Whether the command comes back; otherwise the ring must break."""
        deadline = time.monotonic() + self._scene.max_wait
        while time.monotonic() < deadline:
            if self.queue.take_used():
                return True
            if readable(self.err, 0.001):
                return False
        raise Broken("B", "a command neither comes back nor breaks the ring")

    def broken_by(self, *chain: Piece) -> None:
        self.offer(chain)
        self.broken()

    def broken(self) -> None:
        """The break is reported, frames go on, and set up anew the queue serves again."""
        wait_eventfd(self.err, self._scene.max_wait)
        guest = self.guest
        guest.send(guest.piece(guest.packet(self._scene.frame())))  # to nobody
        guest.transmitq.wait_used(1, self._scene.max_wait)
        self.restart()

    def restart(self) -> None:
        self.queue.reset(self.guest.frontend.get_vring_base(CONTROL))
        self._set_up()
        self.answered(USE_TWO, OK, 2)


@attack(beyond_mini=NO_QUEUE, rings=("split", "packed"))
def control_commands_of_every_kind_and_length(scene: Scene) -> None:
    """Two known commands and thousands of unknown ones; then as many at once as the ring holds."""
    commander = Commander(scene)
    commander.answered(USE_TWO, OK, 2)
    for pairs in (0, 3, 2 * PAIRS, 0x7FFF, 0x8000, 0xFFFF):
        commander.answered(struct.pack("<BBH", 4, 0, pairs), ERROR, 2)
    for length in (1, 2, 3):
        commander.answered(USE_TWO[:length], ERROR)
    for command in (b"\0\0\1", b"\1\0" + bytes(4000), b"\4\1" + bytes(600), b"\5\0" + bytes(8), b"\xff" * 64):
        commander.answered(command, ERROR, 2)
    commander.answered(USE_TWO + bytes(4096), OK, 1, 1, 1, 1, 100)  # what stands behind is not looked at
    commander.answered(b"\3\0", OK)
    for _ in range(3):
        commands = [commander.guest.piece(scene.random.randbytes(5)) for _ in range(SIZE // 2)]
        commander.offer(*([command, commander.answer()] for command in commands))
        commander.queue.wait_used(SIZE // 2, scene.max_wait)
    for _ in range(1000):  # for nothing
        os.eventfd_write(commander.kick, 1)
    commander.answered(USE_TWO, OK, 2)


@attack(beyond_mini=NO_QUEUE, rings=("split", "packed"))
def control_commands_without_a_place_for_the_answer(scene: Scene) -> None:
    commander = Commander(scene)
    guest, end = commander.guest, GUEST_ADDR + (2 << 20)
    command = guest.piece(USE_TWO)
    commander.broken_by(command)
    commander.broken_by(command, Piece(commander.answer().addr, 0, writable=True))
    for nowhere in (0, end, 2**64 - 1):
        commander.broken_by(command, Piece(nowhere, 1, writable=True))
    commander.broken_by(commander.answer(), command)  # the wrong way round
    # As long as it likes: one byte is written.
    answer = commander.answer()
    commander.offer([command, answer._replace(bytes=2**32 - 1)])
    commander.queue.wait_used(1, scene.max_wait)
    commander.offer([commander.answer()])  # nothing is commanded
    commander.queue.wait_used(1, scene.max_wait)


@attack(beyond_mini=NO_QUEUE, rings=("split", "packed"))
def control_commands_outside_of_memory(scene: Scene) -> None:
    first, second = region(1 << 20), region(1 << 20, GUEST_ADDR + (1 << 20) + 4096)
    commander = Commander(scene, first, second)
    answer = commander.answer()
    hole = second.guest_addr - 4096
    for addr, length in ((0, 4), (2**64 - 2, 4), (hole - 2, 4), (hole, 2**32 - 1), (second.guest_addr - 2, 4)):
        commander.broken_by(Piece(addr, length), answer)


@attack(beyond_mini=NO_QUEUE, rings=("split", "packed"))
def control_commands_in_tables_that_are_none(scene: Scene) -> None:
    commander = Commander(scene)
    guest = commander.guest
    table = commander.queue.indirect([guest.piece(USE_TWO), commander.answer()])
    for length in (0, 1, 15, 17, 16 * (SIZE + 1), 2**32 - 16):
        commander.broken_by(table._replace(bytes=length))
    commander.broken_by(table._replace(addr=2**64 - 16))
    if scene.format.packed:  # behind a descriptor; section 2.8.7 has it alone
        commander.broken_by(guest.piece(USE_TWO), table)
    commander.offer([table])
    commander.queue.wait_used(1, scene.max_wait)


@split_attack(beyond_mini=NO_QUEUE)
def control_chains_that_lead_nowhere(scene: Scene) -> None:
    commander = Commander(scene)
    queue, guest = commander.queue, commander.guest
    addr = guest.put(USE_TWO)
    answer = commander.answer().addr
    for descriptors in (
        [(addr, 4, DESC_F_NEXT, 0)],
        [(addr, 0, DESC_F_NEXT, 1), (addr, 0, DESC_F_NEXT, 0)],
        [(addr, 4, DESC_F_NEXT, SIZE)],
        [(addr, 4, DESC_F_NEXT, 0xFFFF)],
        [(addr, 4, DESC_F_NEXT, 1), (answer, 1, DESC_F_NEXT | DESC_F_WRITE, 0)],
    ):
        for index, descriptor in enumerate(descriptors):
            queue.write_descriptor(index, *descriptor)
        queue.offer(0)
        os.eventfd_write(commander.kick, 1)
        commander.broken()
    for head in (SIZE, 0xFFFF):
        queue.offer(head)
        os.eventfd_write(commander.kick, 1)
        commander.broken()
    for jump in (SIZE + 1, 0x8000, -1):
        # A device that trusts the index finds a good command in every entry.
        queue.place(*[queue.chain([guest.piece(USE_TWO), commander.answer()])] * SIZE)
        queue.set_avail_index(queue.avail_index + jump)
        os.eventfd_write(commander.kick, 1)
        commander.broken()


@attack(beyond_mini=NO_QUEUE, rings=("split", "packed"))
def control_commands_that_change_while_they_are_served(scene: Scene) -> None:
    """Each is done or refused, old or new; the answer goes to one of two places, and the ring goes on."""
    commander = Commander(scene)
    guest = commander.guest
    for number in range(100):
        answer, other = commander.answer(), commander.answer()
        table = commander.queue.indirect([guest.piece(USE_TWO), answer])
        good = guest.memory.read(table.addr, 32)
        bad = commander.queue.table([Piece(2**64 - 8, 2**32 - 1), other]) if number % 2 else bytes(32)
        commander.offer([table])
        for content in (bad, good) * 5:
            guest.memory.write(table.addr, content)
        if not commander.served():
            commander.broken()
    commander.answered(USE_TWO, OK, 2)
