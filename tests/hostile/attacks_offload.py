"""Attacks on what a guest leaves to its card: headers that lie, super-frames cut half-way, headers that are rewritten

between look and copy. Each lie is a counted drop, with the chain returned (reaction C); what arrives was checked.
Virtio 1.2, section 5.1.6.2.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import pairwise

from fastvhost.backend.features import OFFLOADS
from tests.driver import NET_HEADER, Piece
from tests.frontend import FEATURES
from tests.hostile.attack import ring_attack
from tests.hostile.flipper import Flipper, Job
from tests.hostile.invariant import Broken
from tests.hostile.scene import Attacker, Scene, region
from tests.malformed_offloads import HEADERS, LIES, TCP4, TCP6, UDP4, Malformed
from tests.segmenter import CWR, FIN, NEEDS_CSUM, PSH, SuperFrame, checksum

NO_OFFLOADS = "offloads, of which the mini back-end has none"
TAG = b"\x81\0"
SENDER, RECEIVER = "i", "j"
"""Ports of an attacker that is both ends."""


def boot(scene: Scene) -> Attacker:
    return scene.boot(features=FEATURES | OFFLOADS)


def data_of(one: Malformed | SuperFrame) -> bytes:
    """The virtio-net header and the frame."""
    return NET_HEADER.pack(*one.asks, 0) + one.frame


# Lies


def lies_of_frames(scene: Scene) -> list[Malformed]:
    """Nobody looks into a frame with a tag where the port takes no tags."""
    return [bad for bad in LIES.values() if scene.arena.takes_tags or bad.frame[12:14] != TAG]


@ring_attack(beyond_mini=NO_OFFLOADS)
def net_headers_that_lie(scene: Scene) -> None:
    """About a checksum, and about pieces: refused as they come in."""
    guest = boot(scene)
    scene.dropped(guest, "gso_unsupported", *(guest.send(guest.piece(data_of(bad))) for bad in HEADERS.values()))
    scene.works(guest)


@ring_attack(beyond_mini=NO_OFFLOADS)
def super_frames_whose_own_headers_lie(scene: Scene) -> None:
    """Refused by who cuts them for a receiver that takes none."""
    guest = boot(scene)
    lies = lies_of_frames(scene)
    scene.dropped(guest, "gso_unsupported", *(guest.send(guest.piece(data_of(bad))) for bad in lies))
    scene.works(guest)


@ring_attack(beyond_mini=NO_OFFLOADS)
def headers_that_lie_in_single_bytes(scene: Scene) -> None:
    """In indirect tables, the virtio-net header and those of the frame alike."""
    guest = boot(scene)
    heads = []
    for bad in (*HEADERS.values(), *lies_of_frames(scene)):
        rows = guest.pieces(data_of(bad)[:200], [1] * 90)
        rest = data_of(bad)[200:]
        heads.append(guest.send(guest.transmitq.indirect([*rows, *([guest.piece(rest)] if rest else [])])))
    scene.dropped(guest, "gso_unsupported", *heads)
    scene.works(guest)


@ring_attack(beyond_mini=NO_OFFLOADS)
def super_frames_without_the_feature_for_them(scene: Scene) -> None:
    """Of each kind, from a driver that has all features but that, and from one without checksums."""
    kinds = ((TCP4, 11), (TCP6, 12), (TCP4._replace(flags=CWR), 13), (UDP4, 56), (TCP4, 0))
    for one, bit in kinds:
        guest = scene.boot(features=FEATURES | OFFLOADS & ~(1 << bit))
        scene.dropped(guest, "gso_unsupported", guest.send(guest.piece(data_of(one))))
        scene.works(guest)


# Cut half-way


def begin(scene: Scene) -> tuple[Attacker, Piece, list[bytes]]:
    """A frame of 125 pieces towards the victim, which has room for 64: the rest waits, for a tenth of a second."""
    guest = scene.boot(features=FEATURES | OFFLOADS, regions=[region(), region(1 << 20, 1 << 32)])
    one = SuperFrame(random.Random(3).randbytes(125 * 500), 500)
    before = segmented(scene)
    data = Piece(guest.memory.take(70_000, region=1), 12 + len(one.frame))
    guest.memory.write(data.addr, data_of(one))
    guest.send(data)
    for _ in scene.tries(0.001):
        if segmented(scene) > before:
            return guest, data, list(one.pieces)
    raise Broken("reaction", "nothing of a super-frame is delivered")


def segmented(scene: Scene) -> int:
    return int(scene.arena.backend.statistics(scene.max_wait)["ports"]["b"]["segmented"])


def arrived(scene: Scene, pieces: list[bytes]) -> None:
    """Of a frame that was given up, its first pieces, each as it must be and in order."""
    scene.let_rounds_pass()
    got = scene.victim.net.receive_all()
    scene.let_rounds_pass()
    got += scene.victim.net.receive_all()
    if not got or got != pieces[: len(got)]:
        raise Broken("I7", f"{len(got)} pieces of {len(pieces)} arrived, and others than the first")
    scene.forget_drops()


@ring_attack(beyond_mini=NO_OFFLOADS)
def a_super_frame_that_is_cut_half_way_when_its_sender_leaves(scene: Scene) -> None:
    _, _, pieces = begin(scene)
    scene.disconnect()
    arrived(scene, pieces)


@ring_attack(beyond_mini=NO_OFFLOADS)
def a_super_frame_that_is_cut_half_way_when_its_ring_stops(scene: Scene) -> None:
    """And starts again, without that frame: the rest of it is given up."""
    guest, _, pieces = begin(scene)
    guest.restart_queue(1)
    arrived(scene, pieces)
    scene.works(guest)


@ring_attack(beyond_mini=NO_OFFLOADS)
def a_super_frame_that_is_cut_half_way_when_its_memory_is_truncated(scene: Scene) -> None:
    """The rest of it, or the next one, ends the connection; nothing else does."""
    guest, data, _ = begin(scene)
    guest.memory.regions[1].truncate(0)
    guest.send(data)
    for _ in scene.tries(0.001):
        scene.victim.net.receive_all()
        if guest.frontend.wait_closed(0.001):
            break
    scene.closed(guest.frontend)
    scene.frames_may_have_arrived()
    scene.forget_drops()


# Rewritten between look and copy

SLOTS, SLOT = 16, 8192
ENOUGH, LEAST_REWRITES = 300, 1000
SPAN = 2 << 20
ONE = SuperFrame(bytes(range(256)) * 12, 500, flags=FIN | PSH)
HEADS = (
    ONE.asks,
    ONE.asks,
    (0,) * 6,
    (NEEDS_CSUM, 0, 0, 0, 34, 16),
    (NEEDS_CSUM, 0, 0xFFFF, 0, 0xFFFF, 0xFFFF),
    (NEEDS_CSUM, 1, 0, 1, 34, 16),
    (0, 1, 0, 500, 34, 16),
    (NEEDS_CSUM, 3, 0, 500, 34, 16),
    (0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF),
)
"""Good ones, and others."""
BODIES = (
    (46, b"\x50"),
    (46, b"\xf0"),
    (46, b"\x00"),
    (14, b"\x45"),
    (14, b"\x4f"),
    (16, b"\xff\xff"),
    (38, b"\1\2\3\4"),
)
"""What else the headers of the frame say: how long they are, how long it is, its number."""
ALLOWED = {0, 1, 4, 5, 0x81, 0x84, 0x85}


class Rewritten:
    """A sender whose headers another process rewrites, and a receiver that looks at what it gets."""

    def __init__(self, scene: Scene, takes: int) -> None:
        self.scene, self.takes, self.own = scene, takes, region(SPAN)
        features = FEATURES | OFFLOADS
        self.sender = scene.boot(port=SENDER, features=features, regions=[self.own], blank=True)
        self.sender.writable.append((self.own.guest_addr, SPAN))
        self.receiver = scene.boot(port=RECEIVER, features=FEATURES | takes)
        for _ in range(128):
            self.receiver.send(*self.receiver.room(4096), queue=0)
        self.base = self.sender.memory.take(SLOTS * SLOT, align=SLOT)
        for slot in range(SLOTS):
            self.sender.memory.write(self.base + slot * SLOT, data_of(ONE))
        self.flipper = Flipper(self.own.fd, list(self.jobs()))
        self.flipper.aim(True)
        self.seen = {"whole": 0, "pieces": 0, "asking": 0}

    def jobs(self) -> Iterator[Job]:
        heads = [NET_HEADER.pack(*asks, 0) for asks in HEADS]
        good = ONE.frame[:64]
        for slot in range(SLOTS):
            at = self.own.at(self.base + slot * SLOT)
            yield at, heads
            yield at, [head[:2] for head in heads]
            yield at + 12, [good] * 4
            for place, what in BODIES:
                yield at + 12 + place, [what]

    def offer(self) -> None:
        """All slots, each cut in another way: in one piece, behind the virtio-net header, and within it."""
        heads = []
        for slot in range(SLOTS):
            at, end = self.base + slot * SLOT, 12 + len(ONE.frame)
            edges = ((0, end), (0, 12, end), (0, 5, 12, 80, end))[slot % 3]
            pieces = [Piece(at + a, b - a) for a, b in pairwise(edges)]
            heads.append(self.sender.transmitq.chain(pieces))
        self.sender.fire(*heads)

    def go_on(self) -> None:
        """Until enough was seen of each kind."""
        wanted = ("whole", "asking") if self.takes else ("pieces", "whole")
        deadline = time.monotonic() + self.scene.max_wait
        out = 0
        while min(self.seen[kind] for kind in wanted) < ENOUGH or self.flipper.rewrites() < LEAST_REWRITES:
            if time.monotonic() > deadline:
                raise Broken("reaction", f"{self.seen}, {self.flipper.rewrites()} rewrites: too little was tried")
            if out == 0:
                self.offer()
                out = SLOTS
            out -= len(self.sender.transmitq.take_used())
            for frame in self.receiver.net.receive_all():
                self.look_at(frame, NET_HEADER.unpack(self.receiver.net.received_header))

    def look_at(self, frame: bytes, header: tuple[int, ...]) -> None:
        flags, gso_type, hdr_len, size, start, offset, _ = header
        if not self.takes:
            if any(header[:6]):
                raise Broken("I7", f"a receiver without offloads gets the header {header}")
            self.seen["whole" if len(frame) == len(ONE.frame) else "pieces"] += 1
            if len(frame) != len(ONE.frame) and not is_right(frame):
                raise Broken("I7", f"a piece contradicts itself: {frame[:80].hex()}")
            return
        sums = start + offset + 2 <= len(frame) if flags else not (start or offset)
        cuts = flags and size >= 64 if gso_type else size == 0
        if flags not in (0, NEEDS_CSUM) or gso_type not in ALLOWED or hdr_len > len(frame) or not (sums and cuts):
            raise Broken("I7", f"the header {header} was never allowed, before a frame of {len(frame)} bytes")
        self.seen["asking" if flags else "whole"] += 1

    def end(self) -> None:
        self.flipper.stop()


def is_right(piece: bytes) -> bool:
    """Whether lengths and checksums of TCP over IPv4 are those of this frame."""
    ip = 14 + 4 * (piece[14] & 15)
    pseudo = piece[26:34] + (len(piece) - ip).to_bytes(4, "big") + bytes([0, 0, 0, 6])
    return (
        int.from_bytes(piece[16:18], "big") == len(piece) - 14
        and checksum(piece[14:ip]) == 0
        and checksum(pseudo + piece[ip:]) == 0
    )


@ring_attack(beyond_mini=NO_OFFLOADS)
def a_second_hand_that_rewrites_net_headers_and_headers_of_super_frames(scene: Scene) -> None:
    """What the receiver gets is the copy that was checked: whether it takes super-frames as they are, or in pieces."""
    for takes in (0, OFFLOADS):
        rewritten = Rewritten(scene, takes)
        try:
            rewritten.go_on()
        finally:
            rewritten.end()
        scene.disconnect()
