"""The ring of a packet port, with blocks that the test fills as the kernel does. Linux, packet_mmap.rst, TPACKET_V3."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost import Door, Worker
from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.dataplane.ports.tap import TapPort
from tests.unit.test_segmentation import ACK, CWR, ECN, TCPV4, check, super_frame

BLOCK_BYTES, BLOCKS = 1 << 17, 4
KERNEL, USER, VLAN_VALID = 0, 1, 1 << 4
PLAIN = bytes(10)
ACCECN = 0x10
HEADER_BYTES, MAC_AT = 48, 80


class FakeRing:
    """The kernel's side: it fills a block that it owns, closes it, and goes on to the next."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, BLOCK_BYTES * BLOCKS)
        self.at = 0

    def is_ours(self, block: int) -> bool:
        """Whether the port has given it back."""
        (status,) = struct.unpack_from("I", self.memory, block * BLOCK_BYTES + 8)
        return bool(status == KERNEL)

    def close_block(self, frames: list[bytes], header: bytes = PLAIN, tag: int = 0) -> bool:
        """Give the port one more block. False: the ring is full, and the kernel would drop."""
        start = self.at * BLOCK_BYTES
        if not self.is_ours(self.at):
            return False
        at = first = start + 64
        for frame in frames:
            room = (MAC_AT + len(frame) + 15) & ~15
            self.memory[at : at + MAC_AT] = bytes(MAC_AT)
            struct.pack_into("6I2H", self.memory, at, room, 0, 0, len(frame), len(frame), USER, MAC_AT, MAC_AT + 14)
            if tag:
                struct.pack_into("I", self.memory, at + 20, USER | VLAN_VALID)
                struct.pack_into("I", self.memory, at + 32, tag)
            self.memory[at + MAC_AT - len(header) : at + MAC_AT] = header
            self.memory[at + MAC_AT : at + MAC_AT + len(frame)] = frame
            at += room
        struct.pack_into("2I", self.memory, start + 12, len(frames), first - start)
        struct.pack_into("I", self.memory, start + 8, USER)
        self.at = (self.at + 1) % BLOCKS
        return True


class Scene:
    """A packet port on a fake ring, wired to an endpoint with room for `slots` frames."""

    def __init__(self, slots: int = 1024) -> None:
        self.ring, door = FakeRing(), Door()
        self.nothing = os.open("/dev/null", os.O_RDWR)
        self.port, self.endpoint = PacketPort("x", door), Endpoint("e", door, slots=slots)
        self.port.attach(self.ring.memory, BLOCK_BYTES, self.nothing, self.nothing, self.nothing)
        self.worker = Worker(door)
        self.worker.add_wire(self.port, self.endpoint, hold=True, hold_timeout_ms=60_000)

    def step(self) -> list[bytes]:
        """What arrives in one round."""
        self.worker.step()
        with self.endpoint.recv(timeout=0) as burst:
            return [bytes(frame) for frame in burst]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    os.close(scene.nothing)


def numbered(numbers: Iterator[int], n: int) -> list[bytes]:
    return [struct.pack(">I", next(numbers)) + bytes(56) for _ in range(n)]


def test_a_burst_takes_frames_of_several_blocks_and_gives_these_back_when_all_are_released(scene: Scene) -> None:
    frames = numbered(itertools.count(), 70)
    for part in (frames[:20], frames[20:40], frames[40:70]):
        assert scene.ring.close_block(part)
    assert scene.step() == frames[:64]
    assert [scene.ring.is_ours(block) for block in range(BLOCKS)] == [False, False, False, True]
    assert scene.step() == frames[64:]
    assert [scene.ring.is_ours(block) for block in range(BLOCKS)] == [True, True, False, True]
    assert scene.step() == []
    assert all(scene.ring.is_ours(block) for block in range(BLOCKS))


def test_a_burst_that_holds_the_whole_ring_does_not_begin_it_again(scene: Scene) -> None:
    frames = numbered(itertools.count(), 2 * BLOCKS)
    for frame in frames[:BLOCKS]:
        assert scene.ring.close_block([frame])
    assert not scene.ring.close_block(frames[BLOCKS:])
    assert scene.step() == frames[:BLOCKS]
    assert scene.step() == []
    for frame in frames[BLOCKS:]:
        assert scene.ring.close_block([frame])
    assert scene.step() == frames[BLOCKS:]


def test_blocks_with_frames_that_wait_for_the_egress_stay_as_they_are() -> None:
    scene = Scene(slots=8)  # four towards the program
    frames = numbered(itertools.count(), 12)
    for at in (0, 6):
        assert scene.ring.close_block(frames[at : at + 6])
    got: list[bytes] = []
    for _ in range(3):
        assert len(got) == 12 or not scene.ring.is_ours(1)
        got += scene.step()
    assert got == frames
    os.close(scene.nothing)


def test_a_super_frame_of_more_pieces_than_a_burst_holds_keeps_its_block(scene: Scene) -> None:
    payload = random.Random(5).randbytes(100 * 200 - 7)
    header = struct.pack("=BBHHHH", 1, TCPV4, 0, 200, 34, 16)
    behind = numbered(itertools.count(), 3)
    assert scene.ring.close_block([super_frame(payload)], header)
    assert scene.ring.close_block(behind)
    first = scene.step()
    assert not scene.ring.is_ours(0)
    second = scene.step()
    pieces = first + second[:-3]
    assert (len(first), b"".join(map(check, pieces))) == (64, payload)
    assert second[-3:] == behind
    assert scene.step() == []
    assert scene.ring.is_ours(0)


def test_what_a_super_frame_asks_for_counts_from_behind_the_tag_that_is_put_back(scene: Scene) -> None:
    payload = random.Random(6).randbytes(3000)
    header = struct.pack("=BBHHHH", 1, TCPV4, 0, 1448, 34, 16)
    assert scene.ring.close_block([super_frame(payload)], header, tag=0x2A)
    pieces = scene.step()
    assert {piece[12:16] for piece in pieces} == {bytes.fromhex("8100002a")}
    assert b"".join(map(check, pieces)) == payload


@pytest.mark.parametrize(
    ("bits", "in_all"),
    [(ECN, False), (0, True), (ACCECN, True), (ACCECN | ECN, True)],
    ids=["ECN", "nothing", "accurate ECN", "both"],
)
def test_congestion_flags_are_in_the_first_piece_or_in_all_as_the_kernel_says(
    scene: Scene, bits: int, in_all: bool
) -> None:
    """RFC 3168 sets CWR once; with RFC 9768 it is part of a counter."""
    payload = random.Random(7).randbytes(3000)
    header = struct.pack("=BBHHHH", 1, TCPV4 | bits, 0, 1448, 34, 16)
    assert scene.ring.close_block([super_frame(payload, flags=ACK | CWR)], header)
    pieces = scene.step()
    assert b"".join(map(check, pieces)) == payload
    assert [bool(piece[34 + 13] & CWR) for piece in pieces] == [True, in_all, in_all]
    assert scene.port.counters().rx_dropped["gso_unsupported"] == 0


def test_a_frame_longer_than_any_port_has_room_for_drops_as_oversize_and_the_next_ones_arrive(scene: Scene) -> None:
    for frames in ([bytes(65550)], [bytes(100_000)], [bytes(60)]):
        assert scene.ring.close_block(frames)
    assert scene.step() == [bytes(60)]
    assert scene.port.counters().rx_dropped["oversize"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_sizes_of_blocks_every_frame_arrives_once_and_in_order(scene: Scene, seed: int) -> None:
    choose, numbers = random.Random(seed), itertools.count()
    sent: list[bytes] = []
    got: list[bytes] = []
    for _ in range(400):
        for _ in range(choose.randrange(4)):
            frames = numbered(numbers, choose.choice((1, 2, 63, 64, 65, 200)))
            if scene.ring.close_block(frames):
                sent += frames
        got += scene.step()
    while more := scene.step():
        got += more
    assert got == sent
    assert len(sent) > 1000


def test_frames_of_a_ring_that_another_one_replaced_are_neither_delivered_nor_counted() -> None:
    """The memory of those frames may be unmapped by then."""
    scene = Scene(slots=8)  # four towards the program
    numbers = itertools.count()
    assert scene.ring.close_block(numbered(numbers, 12))
    before = scene.step()
    other, behind = FakeRing(), numbered(numbers, 3)
    scene.port.attach(other.memory, BLOCK_BYTES, scene.nothing, scene.nothing, scene.nothing)
    assert other.close_block(behind)
    assert [scene.step() for _ in range(3)] == [behind, [], []]
    assert scene.port.counters().rx_frames == len(before) + len(behind)
    os.close(scene.nothing)


def test_a_ring_that_a_late_worker_kept_out_can_be_closed_and_another_one_attached() -> None:
    door, nothing, (end, other) = Door(), os.open("/dev/null", os.O_RDWR), os.pipe()
    port, tap, worker = PacketPort("x", door), TapPort("t", door), Worker(door)
    worker.add_wire(tap, port, hold=False, hold_timeout_ms=1)
    tap.attach([end])  # reading it blocks, which must not happen to a worker
    thread = threading.Thread(target=worker.run)
    thread.start()
    deadline = time.monotonic() + MAX_WAIT
    while not worker.running or state(thread) != "S":
        assert time.monotonic() < deadline
        time.sleep(0.001)
    ring = FakeRing()
    try:
        with pytest.raises(WorkerStuckError):
            port.attach(ring.memory, BLOCK_BYTES, nothing, nothing, nothing)
        ring.memory.close()
    finally:
        os.set_blocking(end, False)
        os.write(other, bytes(60))
    with port.change(MAX_WAIT):
        port.attach(FakeRing().memory, BLOCK_BYTES, nothing, nothing, nothing)
    worker.stop()
    thread.join(MAX_WAIT)
    assert not thread.is_alive()
    for fd in (nothing, end, other):
        os.close(fd)


def state(thread: threading.Thread) -> str:
    return Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(") ")[2][0]
