"""How full a ring is, as `show`, `top` and the metrics tell it: what its driver offers and no worker took yet."""

from __future__ import annotations

import pytest

from tests.unit.rig import F_RING_PACKED, F_VERSION_1, RING_F_INDIRECT_DESC, Rig, frame, rig

FORMATS = {"split": F_VERSION_1, "packed": F_VERSION_1 | F_RING_PACKED}
SIZE = 16


def fills(r: Rig) -> tuple[int, int]:
    """Of b's receiveq, and of a's transmitq."""
    return r.b.port.queue_state(0).available, r.a.port.queue_state(1).available


@pytest.mark.parametrize("features", FORMATS.values(), ids=FORMATS)
def test_a_ring_is_as_full_as_its_driver_made_it_also_where_its_indices_wrap(features: int) -> None:
    with rig(features=features, size=SIZE) as r:
        assert fills(r) == (0, 0)
        r.b.driver.post(7)
        for _ in range(5):
            for n in range(3):
                r.a.driver.send(frame(n))
            assert fills(r) == (7, 3)
            r.settle(10)
            assert fills(r) == (4, 0)
            for n in range(4):
                r.a.driver.send(frame(n))
            r.settle(10)
            assert fills(r) == (0, 0)
            assert len(r.b.driver.receive_all()) == 7


@pytest.mark.parametrize("features", FORMATS.values(), ids=FORMATS)
def test_a_full_ring_is_full_in_every_position(features: int) -> None:
    with rig(features=features, size=SIZE) as r:
        r.b.driver.post(SIZE)
        for n in range(2 * SIZE + 1):
            assert fills(r)[0] == SIZE
            r.a.driver.send(frame(n))
            r.settle(10)
            assert fills(r)[0] == SIZE - 1
            r.b.driver.receive()  # gives the buffer back


def test_frames_that_wait_for_room_are_taken_and_no_longer_available() -> None:
    with rig(features=F_VERSION_1 | F_RING_PACKED | RING_F_INDIRECT_DESC, size=SIZE) as r:
        for n in range(5):
            r.a.driver.send(frame(n))
        r.settle(10)
        assert fills(r)[0] == 0
        assert fills(r)[1] + r.worker.waiting == 5


def test_an_index_that_ran_ahead_fills_the_ring_and_no_more() -> None:
    with rig(features=F_VERSION_1, size=SIZE) as r:
        r.a.queues[1].memory.write(r.a.queues[1].driver_area + 2, (40_000).to_bytes(2, "little"))
        assert fills(r)[1] == SIZE


def test_rings_that_a_guest_does_not_use_are_none_of_its_port() -> None:
    with rig(size=SIZE) as r:
        assert [ring.index for ring in r.a.port.rings()] == [0, 1]
        r.a.port.set_enabled(0, False)
        assert [ring.index for ring in r.a.port.rings()] == [1]
        r.a.port.stop_queue(1)
        assert list(r.a.port.rings()) == []
