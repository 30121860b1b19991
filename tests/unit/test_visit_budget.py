"""One visit of a lane moves a bounded number of frames, pieces and bytes, but always one frame."""

from __future__ import annotations

import pytest

from tests.driver import Memory, Piece
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, GuestPort, frame, rig

MOST_PIECES = 256
MOST_BYTES = 256 * 1024
RINGS = {"split": 0, "packed": F_RING_PACKED}
FEATURES = F_VERSION_1 | RING_F_INDIRECT_DESC
HEADER_BYTES = 12
ring_formats = pytest.mark.parametrize("ring", RINGS.values(), ids=RINGS.keys())


def offer_shared_table(side: GuestPort, frames: int, pieces: int) -> None:
    """Frames that all are one and the same indirect table: the header, and so many pieces of one byte."""
    queue = side.queues[1]
    header, payload = side.memory.take(HEADER_BYTES), side.memory.take(pieces)
    side.memory.write(payload, frame(1, pieces))
    rows = [Piece(header, HEADER_BYTES), *[Piece(payload + i, 1) for i in range(pieces)]]
    table = queue.indirect(rows)
    queue.make_available(*[queue.chain([table]) for _ in range(frames)])


@ring_formats
def test_64_frames_of_1020_pieces_of_one_byte_move_one_a_visit(ring: int) -> None:
    with rig(features=FEATURES | ring) as r:
        r.b.driver.post(128)
        offer_shared_table(r.a, 64, 1020)
        assert [r.worker.step() for _ in range(65)] == [1] * 64 + [0]
        assert len(r.b.driver.receive_all()) == 64


@ring_formats
@pytest.mark.parametrize("pieces", [60, 84, 127, 255])
def test_a_visit_moves_as_many_frames_as_256_pieces_make(ring: int, pieces: int) -> None:
    """The header is a piece as well."""
    with rig(features=FEATURES | ring) as r:
        r.b.driver.post(128)
        offer_shared_table(r.a, 64, pieces)
        assert r.worker.step() == MOST_PIECES // (pieces + 1)
        r.settle()
        assert len(r.b.driver.receive_all()) == 64


@ring_formats
def test_frames_in_one_piece_count_as_one_each(ring: int) -> None:
    """40 of them, and then some in 128: of those only one more, because two would make 296."""
    with rig(features=FEATURES | ring) as r:
        r.b.driver.post(128)
        r.a.driver.send_at_once(*[frame(n) for n in range(40)])
        offer_shared_table(r.a, 4, 127)
        assert r.worker.step() == 41
        assert r.worker.step() == 2
        assert r.worker.step() == 1


@ring_formats
def test_a_frame_in_32000_pieces_moves_alone(ring: int) -> None:
    """Between frames in one piece: neither those before it nor those after it move in its visit."""
    with rig(features=FEATURES | NET_F_MRG_RXBUF | ring, memory=Memory.of(16 * MIB)) as r:
        r.b.driver.post(128)
        r.a.driver.send(frame(1))
        offer_shared_table(r.a, 1, 32_000)
        r.a.driver.send_at_once(frame(2), frame(3))
        assert [r.worker.step() for _ in range(4)] == [1, 1, 2, 0]
        assert [len(got) for got in r.b.driver.receive_all()] == [60, 32_000, 60, 60]


@ring_formats
def test_64_receive_buffers_of_1020_pieces_take_one_frame_a_visit(ring: int) -> None:
    """The first piece of each has room for the header."""
    with rig(features=FEATURES | ring) as r:
        queue, header, payload = r.b.queues[0], r.b.memory.take(HEADER_BYTES), r.b.memory.take(1020)
        rows = [Piece(payload + i, 1, writable=True) for i in range(1020)]
        table = queue.indirect([Piece(header, HEADER_BYTES, writable=True), *rows])
        queue.make_available(*[queue.chain([table]) for _ in range(64)])
        r.a.driver.send_at_once(*[frame(n, 1000) for n in range(64)])
        assert [r.worker.step() for _ in range(65)] == [1] * 64 + [0]
        assert r.a.port.counters().rx_frames == r.b.port.counters().tx_frames == 64


@ring_formats
@pytest.mark.parametrize("hold", [True, False], ids=["hold", "drop"])
def test_frames_spread_over_many_buffers_move_as_many_as_256_buffers_hold(ring: int, hold: bool) -> None:
    """Frames after them are neither lost nor dropped, also without hold."""
    with rig(features=FEATURES | NET_F_MRG_RXBUF | ring, size=512, hold=hold) as r:
        r.b.driver.post(512, bytes=112)
        r.a.driver.send_at_once(*[frame(n, 1000) for n in range(40)])
        assert [r.worker.step() for _ in range(3)] == [25, 15, 0]  # with the header each needs ten
        assert [len(got) for got in r.b.driver.receive_all()] == [1000] * 40


@ring_formats
@pytest.mark.parametrize("hold", [True, False], ids=["hold", "drop"])
@pytest.mark.parametrize("size", [4160, 9000, 65_000])
def test_a_visit_moves_256_kib_of_payload(ring: int, hold: bool, size: int) -> None:
    memory = Memory.of(16 * MIB), Memory.of(16 * MIB)
    with rig(features=FEATURES | ring, hold=hold, memory=memory[0], b_memory=memory[1]) as r:
        r.b.driver.post(100, bytes=size + HEADER_BYTES)
        r.a.driver.send_at_once(*[frame(n, size) for n in range(64)])
        moved = [r.worker.step() for _ in range(64)]
        assert moved[0] == MOST_BYTES // size
        assert max(moved) <= MOST_BYTES // size
        r.settle()
        assert len(r.b.driver.receive_all()) == 64
