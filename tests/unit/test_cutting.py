"""Super-frames that are cut: how much a visit does of them, and what becomes of one that is cut half-way."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from typing import Any

import pytest

from fastvhost.backend.features import OFFLOADS
from tests.driver import NET_HEADER, Memory, Piece
from tests.segmenter import ACK, FIN, PSH, SuperFrame
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, RING_F_INDIRECT_DESC, Rig, mapped, rig

FEATURES = F_VERSION_1 | RING_F_INDIRECT_DESC
SENDER = FEATURES | OFFLOADS
ring_formats = pytest.mark.parametrize("ring", [0, F_RING_PACKED], ids=["split", "packed"])
MOST_SEGMENTS = 256


def cut_rig(ring: int, **options: Any) -> AbstractContextManager[Rig]:
    """a leaves everything to its card, b takes nothing of it."""
    return rig(features=SENDER | ring, b_features=FEATURES | ring, **options)


def super_frame(length: int, size: int = 1448, **fields: Any) -> SuperFrame:
    return SuperFrame(random.Random(length).randbytes(length), size, flags=ACK | PSH | FIN, **fields)


def send(r: Rig, one: SuperFrame) -> None:
    r.a.driver.send(one.frame, NET_HEADER.pack(*one.asks, 0))


def send_in_single_bytes(r: Rig, one: SuperFrame) -> None:
    """The payload at least."""
    queue, memory = r.a.queues[1], r.a.memory
    data = NET_HEADER.pack(*one.asks, 0) + one.frame
    start = 12 + one.header_bytes
    at = memory.take(len(data))
    memory.write(at, data)
    table = queue.indirect([Piece(at, start), *[Piece(at + i, 1) for i in range(start, len(data))]])
    queue.make_available(queue.chain([table]))


def segmented(r: Rig) -> tuple[int, int]:
    counters = r.b.port.counters()
    return counters.cut, counters.segmented


# What a visit does


@ring_formats
@pytest.mark.parametrize("hold", [True, False], ids=["hold", "drop"])
def test_a_visit_cuts_128_pieces_at_most_of_a_header_and_its_payload(ring: int, hold: bool) -> None:
    """Of a frame of a thousand, nothing is lost or dropped by that, wherever frames do not wait for room."""
    one = super_frame(64 * 1000, 64)
    with cut_rig(ring, size=2048, hold=hold) as r:
        r.b.driver.post(1024, bytes=256)
        send(r, one)
        done = []
        while r.worker.step():
            done.append(segmented(r)[1])
        assert done == [128, 256, 384, 512, 640, 768, 896, 1000]
        assert segmented(r) == (1, 1000)
        assert r.b.driver.receive_all() == list(one.pieces)


@ring_formats
def test_frames_that_were_cut_count_in_the_visit_of_those_behind_them(ring: int) -> None:
    """Of each, 8 pieces of two segments: so sixteen frames make a visit."""
    frames = [super_frame(8 * 100 - i, 100, sequence=i) for i in range(40)]
    with cut_rig(ring, size=512) as r:
        r.b.driver.post(400, bytes=256)
        for one in frames:
            send(r, one)
        assert [r.worker.step() for _ in range(4)] == [16, 16, 8, 0]
        assert r.b.driver.receive_all() == [piece for one in frames for piece in one.pieces]


@ring_formats
def test_a_super_frame_in_single_bytes_is_cut_one_piece_a_visit(ring: int) -> None:
    one = super_frame(5000, 1000)
    with cut_rig(ring, memory=Memory.of(16 * MIB)) as r:
        r.b.driver.post(8)
        send_in_single_bytes(r, one)
        done = []
        while r.worker.step():
            done.append(segmented(r)[1])
        assert done == [1, 2, 3, 4, 5]
        assert r.b.driver.receive_all() == list(one.pieces)


@ring_formats
def test_a_super_frame_in_single_bytes_that_its_port_took_back_goes_on_where_it_was_cut(ring: int) -> None:
    one = super_frame(5000, 1000)
    with cut_rig(ring, memory=Memory.of(16 * MIB)) as r:
        r.b.driver.post(2)
        send_in_single_bytes(r, one)
        r.settle()
        r.a.port.set_memory(mapped(r.a.memory))
        r.b.driver.post(8)
        r.settle()
        assert r.b.driver.receive_all() == list(one.pieces)


# Half-way


@ring_formats
def test_what_is_left_of_a_frame_waits_for_room_and_frames_behind_it_do(ring: int) -> None:
    frames = [super_frame(10_000), super_frame(9_000, udp=True), super_frame(3000, ipv6=True)]
    expected = [piece for one in frames for piece in one.pieces]
    with cut_rig(ring) as r:
        for one in frames:
            send(r, one)
        for n, piece in enumerate(expected):
            assert segmented(r)[1] == n
            r.b.driver.post(1)
            r.settle()
            assert r.b.driver.receive(0, repost=False) == piece
        assert r.a.driver.reclaim() == 3
        assert segmented(r) == (3, len(expected))


@ring_formats
def test_headers_are_read_once(ring: int) -> None:
    """What their sender makes of them while the rest waits is not looked at."""
    one = super_frame(10_000)
    with cut_rig(ring) as r:
        r.b.driver.post(3)
        (buffer,) = r.a.driver.offer(one.frame, NET_HEADER.pack(*one.asks, 0))
        r.a.queues[1].make_available(r.a.queues[1].chain([buffer]))
        r.settle()
        r.a.memory.write(buffer.addr, b"\xff" * (12 + one.header_bytes))
        r.b.driver.post(20)
        r.settle()
        assert r.b.driver.receive_all() == list(one.pieces)


@ring_formats
def test_a_frame_whose_rest_finds_no_room_in_time_is_dropped_and_counted_once(ring: int) -> None:
    one, behind = super_frame(10_000), super_frame(1000)
    with cut_rig(ring, hold=False) as r:
        r.b.driver.post(3)
        send(r, one)
        r.settle()
        assert r.b.driver.receive_all() == list(one.pieces)[:3]
        assert r.b.port.counters().tx_dropped["no_receive_buffers"] == 1
        assert segmented(r) == (0, 3)
        assert r.a.driver.reclaim() == 1
        send(r, behind)
        r.settle()
        assert r.b.driver.receive_all() == list(behind.pieces)
        assert r.a.driver.reclaim() == 1


@ring_formats
@pytest.mark.parametrize("change", ["other memory", "its own ring", "the other ring"])
def test_a_frame_that_its_port_took_back_goes_on_where_it_was_cut(ring: int, change: str) -> None:
    """Nothing is repeated, nothing lost, and what was mapped is not read any more."""
    one, behind = super_frame(10_000), super_frame(2000, udp=True)
    with cut_rig(ring) as r:
        r.b.driver.post(3)
        send(r, one)
        send(r, behind)
        r.settle()
        assert r.worker.waiting == 2
        if change == "other memory":
            r.a.port.set_memory(mapped(r.a.memory))
        elif change == "the other ring":
            r.a.port.stop_queue(0)
        else:
            base = r.a.port.stop_queue(1)
            r.settle()
            assert r.worker.waiting == 0
            r.a.start(1, base=base)
        r.b.driver.post(20)
        r.settle()
        assert r.b.driver.receive_all() == [*one.pieces, *behind.pieces]
        assert segmented(r) == (2, 9)
        assert r.a.driver.reclaim() == 2


@ring_formats
def test_another_frame_than_the_one_that_was_taken_back_is_cut_from_its_beginning(ring: int) -> None:
    one, other = super_frame(10_000), super_frame(10_000, sequence=5)
    with cut_rig(ring) as r:
        r.b.driver.post(3)
        send(r, one)
        r.settle()
        r.a.port.stop_queue(1)
        r.a.queues[1].reset(0)
        r.a.start(1, base=None)
        send(r, other)
        r.b.driver.post(20)
        r.settle()
        assert r.b.driver.receive_all() == [*list(one.pieces)[:3], *other.pieces]


@ring_formats
@pytest.mark.parametrize("change", ["the guest", "the driver"])
def test_a_frame_that_is_the_same_but_not_the_one_that_was_taken_back_is_cut_from_its_beginning(
    ring: int, change: str
) -> None:
    """As UDP's headers over IPv6 are, whatever they carry: another guest's, or of a driver that began anew."""
    one = super_frame(10_000, udp=True, ipv6=True)
    with cut_rig(ring) as r:
        r.b.driver.post(3)
        r.a.driver.send(one.part(0, b"before", 0, whole=True))
        send(r, one)
        r.settle()
        base = r.a.port.stop_queue(1)
        if change == "the guest":
            r.a.port.set_link(False)
            r.a.port.set_link(True)
            r.a.queues[1].reset(base & (0x7FFF if ring else 0xFFFF))
        else:
            r.a.queues[1].reset(0)
        r.a.start(1)
        send(r, one)
        r.b.driver.post(20)
        r.settle()
        assert r.b.driver.receive_all()[3:] == list(one.pieces)


@ring_formats
def test_a_frame_whose_memory_went_is_not_read_any_more(ring: int) -> None:
    """Its pages are unmapped: whoever reads them ends with them."""
    one = super_frame(10_000)
    with cut_rig(ring) as r:
        r.b.driver.post(3)
        send(r, one)
        r.settle()
        blank = Memory.of(MIB)
        try:
            r.a.port.set_memory(mapped(blank))
            r.b.driver.post(20)
            r.settle()
        finally:
            blank.close()
        assert r.b.driver.receive_all() == list(one.pieces)[:3]
        assert (r.worker.waiting, r.a.port.counters().rx_frames) == (0, 0)


@ring_formats
def test_a_receiver_that_goes_meanwhile_drops_the_rest_and_the_sender_has_its_buffer_back(ring: int) -> None:
    one, behind = super_frame(10_000), super_frame(2000, sequence=7)
    with cut_rig(ring) as r:
        r.b.driver.post(3)
        send(r, one)
        r.settle()
        base = r.b.port.stop_queue(0)
        r.settle()
        assert r.a.driver.reclaim() == 1
        assert r.b.port.counters().tx_dropped["ring_disabled"] == 4
        assert r.b.driver.receive_all() == list(one.pieces)[:3]
        r.b.start(0, base=base)
        send(r, behind)
        r.settle()
        assert r.b.driver.receive_all() == list(behind.pieces)
