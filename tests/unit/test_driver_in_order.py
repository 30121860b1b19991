"""The built-in driver on rings in order: it keeps the order, and one used entry may stand for many buffers."""

from __future__ import annotations

import pytest

from fastvhost.driver.frontend import Feature
from tests.unit.test_driver_traffic import SIZE, pair

SPLIT = Feature.VERSION_1 | Feature.IN_ORDER
PACKED = SPLIT | Feature.RING_PACKED
FORMATS = pytest.mark.parametrize("ring", [SPLIT, PACKED], ids=["split", "packed"])


@FORMATS
@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_every_frame_arrives_intact_and_in_order(ring: Feature, pieces: int, in_batches: bool) -> None:
    with pair(features=ring, pieces=pieces, content="whole", sizes=(60, 1000)) as p:
        p.wire.in_batches = in_batches
        p.go(40)
        p.load.drain()
        p.go(1)
        assert p.b.received == (*p.a.sent, 0, 0, 0, 0)
        assert p.a.sent[0] >= 40 * (SIZE // pieces)
        assert p.a.unreturned == 0


@FORMATS
def test_buffers_are_made_available_in_the_rings_order_however_few_come_back(ring: Feature) -> None:
    with pair(features=ring) as p:
        heads = []
        held: list[int] = []
        for _ in range(50):
            p.load.step()
            held += [head for head, _ in p.wire.source.take()]
            heads += held[:3]
            for head in held[:3]:
                p.wire.source.use(head, 0)
            p.wire.source.publish()
            del held[:3]
            if len(heads) == 60:
                p.load.drain()    # idle slots, for a while
                p.load.step()
                p.load.flood()
        assert heads == [n % SIZE for n in range(len(heads))]
        assert not p.a.broken


@pytest.mark.parametrize("queue_size", [7, 10, 33])
def test_batches_lie_across_the_end_of_a_packed_ring_of_any_size(queue_size: int) -> None:
    with pair(features=PACKED, queue_size=queue_size, pieces=3, content="whole", sizes=(200,)) as p:
        p.wire.in_batches = True
        p.go(60)
        assert p.b.received[0] >= 60 * (queue_size // 3)
        assert p.faults == (0, 0, 0, 0)


@FORMATS
def test_a_batch_longer_than_a_burst_is_taken_in_parts(ring: Feature) -> None:
    with pair(features=ring, queue_size=256) as p:
        p.wire.in_batches = True
        for _ in range(4):
            p.load.step()         # 64 at a time: the ring is full
        p.wire.carry()
        for _ in range(8):
            p.load.step()
        p.load.drain()
        p.wire.carry()
        for _ in range(8):
            p.load.step()
        assert p.b.received == (*p.a.sent, 0, 0, 0, 0)
        assert p.a.sent[0] == 512
        assert p.a.unreturned == 0


@FORMATS
def test_a_frame_over_several_buffers_is_put_together_in_order_too(ring: Feature) -> None:
    with pair(features=ring | Feature.MRG_RXBUF, sizes=(9000, 60), content="whole", queue_size=128) as p:
        for _ in range(200):
            p.load.step()
            frames = p.wire.source.take()
            for head, buffers in frames[:20]:
                p.wire.room += p.wire.target.take()
                if len(p.wire.room) >= 5:
                    p.wire.put_frame(b"".join(p.wire.source.ram.read(offset, n) for offset, n, _ in buffers))
                p.wire.source.use(head, 0)
            for head, _ in frames[20:]:
                p.wire.source.use(head, 0)
            p.wire.source.publish()
            p.wire.target.publish()
        assert p.b.received[0] > 1000
        assert p.b.received[2:5] == (0, 0, 0)
        assert not p.b.broken


@FORMATS
@pytest.mark.parametrize("head", [SIZE, 0xFFFFFFFF])
def test_a_batch_that_cannot_be_stops_that_queue(head: int, ring: Feature) -> None:
    with pair(features=ring) as p:
        p.load.step()
        p.wire.source.use(head, 0)
        p.wire.source.publish()
        p.load.step()
        assert p.a.broken


def test_a_batch_of_more_than_the_used_index_says_stops_that_queue() -> None:
    with pair(features=SPLIT) as p:
        p.load.step()
        p.wire.source.use(5, 0)   # six buffers, the index moves by one
        p.wire.source.publish()
        p.load.step()
        assert p.a.broken


def test_gaps_in_a_split_ring_in_order_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="has no gaps"), pair(features=SPLIT, pieces=3):
        pass
