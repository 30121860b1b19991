"""A guest rewrites its frames after the switch has decided where they go: what was decided on is what arrives.

Decided on is the Ethernet header: destination, source, EtherType or tag. The bytes behind it are the sender's own
business; it may change them until they are copied. In the first tests it rewrites everything at the last
moment before each delivery, so the same happens every time. In the last one it never stops.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend.features import NET_F_CSUM, NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_F_HOST_TSO4, mask
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.port import Port
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, NetDriver, Piece
from tests.hostile.rings import EVERY, FORMATS
from tests.probes.rewriting import call_before_delivery, rewrite_in_turn, stop_rewriting
from tests.standstill import settle
from tests.unit.rig import F_VERSION_1, MIB, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, GuestPort
from tests.unit.test_offloads import tcp_frame

EVERYBODY = b"\xff" * 6
HEADER = 14
TAG = b"\x81\x00\x00\x05"
START = 24
"""Bytes of a frame that a switch may want to read: with two tags, and two more."""
BYTES = 90
SHAPES = {
    "in one piece": (102,),
    "behind its header": (12, 90),
    "in pieces": (12, 6, 6, 2, 5, 71),
    "cut in an address": (15, 1, 1, 85),
}
DESTINATIONS: tuple[int | bytes, ...] = (1, 2, 3, 3, 2, EVERYBODY, 1, b"\x52\x54\0\0\0\x50", 2)
"""A guest that is known, everybody, or an address that nobody has."""
USUAL = F_VERSION_1 | NET_F_MRG_RXBUF | RING_F_INDIRECT_DESC
MIXED = 3
"""Bursts of one buffer, again and again, that reach both guests: its address changed while it was looked at. A second
read a little later sees another address about every other time."""


def mac(number: int) -> bytes:
    return b"\x52\x54\x00\x00\x00" + bytes([number])


STRANGER = mac(99)
FORGED = mac(1) + STRANGER + b"\x81\x00\x0f\xfe" + b"\xee" * 65536
"""What a frame is rewritten to: for guest 1, from nobody, in another VLAN."""


class HostileGuest(GuestPort):
    """A guest with a ring of any format, which can rewrite all frames that it ever sent."""

    def __init__(self, door: Door, name: str, ring: str, features: int = USUAL) -> None:
        own = FORMATS[ring]
        super().__init__(door, name, Memory.of(8 * MIB), 256, features | own.features)
        self.queues: list[Any] = [own.queue(self.memory, 256) for _ in range(2)]
        self.driver = NetDriver(*self.queues, mergeable=True)
        self.sent: list[list[tuple[int, int]]] = []

    def send(self, frames: Sequence[bytes], sizes: Sequence[int], *, indirect: bool = False, asks: bytes = b"") -> None:
        """All at once, each cut into pieces of these sizes, header included, the last of which takes the rest."""
        queue, heads = self.queues[1], []
        for frame in frames:
            data, pieces = (asks or self.driver.header()) + frame, []
            for size in (*sizes[:-1], len(data)):
                part, data = data[:size], data[size:]
                pieces.append(Piece(self.memory.take(len(part)), len(part)))
                self.memory.write(pieces[-1].addr, part)
            self.sent.append([(piece.addr, piece.bytes) for piece in pieces])
            heads.append(queue.chain([queue.indirect(pieces)] if indirect else pieces))
        queue.make_available(*heads)

    def rewrite(self, most: int = 1 << 16) -> None:
        """The first bytes of all frames, or all of them."""
        for pieces in self.sent:
            at, left = -12, most
            for addr, n in pieces:
                skip = max(0, min(n, -at))
                part = FORGED[at + skip : at + n][:left]
                self.memory.write(addr + skip, part)
                at, left = at + n, left - len(part)


class Scene:
    """Guest 0 is hostile; 1 has large buffers, 2 small ones in pieces; 3 is a program: its port gets spliced frames."""

    def __init__(self, ring: str, features: int = USUAL) -> None:
        door = Door()
        self.hostile = HostileGuest(door, "hostile", ring, features)
        self.large = HostileGuest(door, "large", ring, features)
        self.small = HostileGuest(door, "small", ring)
        self.guests = [self.hostile, self.large, self.small]
        self.program = Endpoint("program", door)
        self.ports: tuple[Port, ...] = (*(guest.port for guest in self.guests), self.program)
        self.table = ForwardingTable(ports=4)
        self.worker = Worker(door)
        bridge = Bridge(self.ports, self.table)
        for port in self.ports:
            self.worker.add_wire(port, None, hold=False, hold_timeout_ms=1, bridge=bridge)
        for guest in self.guests:
            guest.connect()
            if guest is not self.small:
                guest.driver.post(64)
        for _ in range(50):
            room = [Piece(self.small.memory.take(n), n, writable=True) for n in (5, 9, 3, 1, 400)]
            self.small.driver.post_chain(room)

    def everybody_is_known(self) -> None:
        for number, guest in enumerate(self.guests):
            guest.send([EVERYBODY + mac(number) + b"\x88\xb5" + bytes(46)], (72,))
        self.program.send([EVERYBODY + mac(3) + b"\x88\xb5" + bytes(46)])
        self.settle()
        for receiver in range(1, 4):
            assert len(self.arrived(receiver)) == 3

    def settle(self) -> None:
        settle(self.worker)

    def arrived(self, receiver: int) -> list[bytes]:
        if receiver == 3:
            return [bytes(frame) for frame in self.program.recv(64, timeout=0)]
        return self.guests[receiver].driver.receive_all()

    def close(self) -> None:
        self.worker.close()
        for guest in self.guests:
            guest.close()


@contextlib.contextmanager
def scene(ring: str, features: int = USUAL) -> Iterator[Scene]:
    made = Scene(ring, features)
    try:
        made.everybody_is_known()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ring", EVERY)
def test_a_header_that_is_rewritten_before_the_copy_arrives_as_it_was_decided_on(
    ring: str, sizes: tuple[int, ...], indirect: bool
) -> None:
    """The payload does not: so it was rewritten in time."""
    with scene(ring) as s:
        expected: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
        frames = []
        for n, to in enumerate(DESTINATIONS):
            header = (mac(to) if isinstance(to, int) else to) + mac(0)
            header += TAG if n in (1, 2, 6) else bytes([0x88, n])
            frames.append(header + bytes(BYTES - len(header)))
            for receiver in [to] if isinstance(to, int) else expected:
                expected[receiver].append(header)
        call_before_delivery(s.ports, s.hostile.rewrite)
        s.hostile.send(frames, sizes, indirect=indirect)
        s.settle()
        for receiver, headers in expected.items():
            arrived = s.arrived(receiver)
            pairs = zip(sorted(arrived), sorted(headers), strict=True)
            assert all(frame.startswith(header) for frame, header in pairs)
            assert {frame[START:] for frame in arrived} == {FORGED[START:BYTES]}
        assert (s.table.find("52:54:00:00:00:00"), s.table.find("52:54:00:00:00:63")) == (0, None)


@pytest.mark.parametrize("ring", EVERY)
def test_frames_that_a_super_frame_is_cut_into_have_the_header_that_was_decided_on(ring: str) -> None:
    """It goes to three ports: to the first one whole; before the others get their pieces, it is rewritten."""
    offloads = mask(NET_F_CSUM, NET_F_GUEST_CSUM, NET_F_HOST_TSO4, NET_F_GUEST_TSO4)
    with scene(ring, USUAL | offloads) as s:
        header = EVERYBODY + mac(0) + b"\x08\x00"
        frame = header + tcp_frame(b"p" * 4000)[HEADER:]
        call_before_delivery(s.ports, lambda: s.hostile.rewrite(HEADER))
        s.hostile.send([frame], (66, 4000), asks=s.hostile.driver.header(1, 1, 54, 1448, 34, 16))
        s.settle()
        for receiver, n in ((1, 1), (2, 3), (3, 3)):
            assert [one[:HEADER] for one in s.arrived(receiver)] == [header] * n


@pytest.mark.parametrize("ring", EVERY)
def test_a_frame_whose_address_never_stops_changing_arrives_where_its_address_says(ring: str) -> None:
    with scene(ring) as s:
        one, other = (int.from_bytes((mac(to) + mac(0))[:8], "little") for to in (1, 2))
        addr = s.hostile.memory.take(128, align=64) + 4
        s.hostile.memory.write(addr, bytes(12) + mac(1) + mac(0) + b"\x88\xb5" + bytes(46))
        region = s.hostile.memory.region(addr)
        rewriting = threading.Thread(target=rewrite_in_turn, args=(region.file, region.at(addr + 12), one, other))
        rewriting.start()
        queue, mixed, deadline = s.hostile.queues[1], 0, time.monotonic() + MAX_WAIT
        try:
            while mixed < MIXED and time.monotonic() < deadline:
                queue.make_available(*[queue.chain([Piece(addr, 72)]) for _ in range(32)])
                s.settle()
                queue.take_used()
                arrived = {receiver: {frame[:6] for frame in s.arrived(receiver)} for receiver in (1, 2)}
                assert all(addresses <= {mac(receiver)} for receiver, addresses in arrived.items())
                mixed += all(arrived.values())
        finally:
            stop_rewriting()
            rewriting.join()
        assert mixed >= MIXED
