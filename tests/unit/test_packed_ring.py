"""The packed ring: wrap counters, chains across the end of the ring, any size, events. Virtio 1.2, section 2.8."""

from __future__ import annotations

import pytest

from tests.driver import DESC_F_NEXT, Piece
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED, EVENT_DISABLE, PACKED_DESCRIPTOR
from tests.probes import counts
from tests.unit.rig import (
    F_RING_PACKED,
    F_VERSION_1,
    NET_F_MRG_RXBUF,
    RING_F_EVENT_IDX,
    RING_F_INDIRECT_DESC,
    Rig,
    frame,
    rig,
)

PACKED = F_VERSION_1 | F_RING_PACKED | RING_F_INDIRECT_DESC
MERGEABLE = PACKED | NET_F_MRG_RXBUF


def post(r: Rig, pieces: list[Piece]) -> None:
    r.b.driver.post_chain(pieces)


@pytest.mark.parametrize("size", [1, 3, 7, 64, 100, 256])
def test_frames_arrive_in_order_over_many_wraps_in_rings_of_any_size(size: int) -> None:
    with rig(size=size, features=MERGEABLE) as r:
        r.b.driver.post(size)
        batch = max(1, size - 1)
        for base in range(0, 20 * size, batch):
            for n in range(base, base + batch):
                r.a.driver.send(frame(n))
            r.settle()
            for n in range(base, base + batch):
                assert r.b.driver.receive(0) == frame(n)


def test_a_packed_guest_and_a_split_guest_talk_both_ways() -> None:
    with rig(features=PACKED, b_features=F_VERSION_1) as r:
        for side in (r.a, r.b):
            side.driver.post(200)
        for n in range(1000):
            r.a.driver.send(frame(n, 60 + n))
            r.b.driver.send(frame(-n, 60 + n))
            r.settle()
            assert r.b.driver.receive(0) == frame(n, 60 + n)
            assert r.a.driver.receive(0) == frame(-n, 60 + n)


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cut", [[12], [1] * 12, [4, 0, 4, 4], [1] * 40, [26, 0]], ids=str)
def test_chains_may_be_cut_anywhere_and_go_over_the_end_of_the_ring(cut: list[int], indirect: bool) -> None:
    with rig(size=100, features=PACKED) as r:
        for _ in range(20):  # each at another place of the ring
            data = bytes(12) + frame(3, 200)
            pieces, at = [], r.a.memory.take(len(data))
            r.a.memory.write(at, data)
            for length in [*cut, len(data) - sum(cut)]:
                pieces.append(Piece(at, length))
                at += length
            q = r.a.queues[1]
            q.make_available(q.chain([q.indirect(pieces)] if indirect else pieces))
            room, at = [], r.b.memory.take(1024)
            for length in [*cut, 1024 - sum(cut)]:
                room.append(Piece(at, length, writable=True))
                at += length
            rq = r.b.queues[0]
            buffer = rq.chain([rq.indirect(room)] if indirect else room)
            r.b.driver.receive_buffers[buffer] = room
            rq.make_available(buffer)
            r.settle()
            assert r.b.driver.receive(0, repost=False) == frame(3, 200)
            assert len(q.take_used()) == 1


def test_a_frame_over_several_mergeable_buffers_is_shown_all_at_once() -> None:
    with rig(features=MERGEABLE) as r:
        r.b.driver.post(100, bytes=600)
        for n, bytes in enumerate([60, 9000, 64, 588, 589]):
            r.a.driver.send(frame(n, bytes))
        r.settle()
        for n, bytes in enumerate([60, 9000, 64, 588, 589]):
            assert r.b.driver.receive(0) == frame(n, bytes)


@pytest.mark.parametrize(("sent", "wrap"), [(13, 0), (23, 1)])
def test_the_base_carries_both_indices_and_wrap_counters_and_starts_anew_from_them(sent: int, wrap: int) -> None:
    at = 3 | wrap << 15 | 3 << 16 | wrap << 31  # both counters wrapped once, or twice
    with rig(size=10, features=PACKED) as r:
        r.b.driver.post(10)
        for n in range(sent):
            r.a.driver.send(frame(n))
            r.settle()
            assert r.b.driver.receive(0) == frame(n)
        r.a.driver.reclaim()
        assert r.a.port.stop_queue(1) == at
        base = r.b.port.stop_queue(0)
        assert base == at
        r.a.start(1, base=at)
        r.b.start(0, base=base)
        r.a.driver.send(frame(99))
        r.settle()
        assert r.b.driver.receive(0) == frame(99)


def test_held_frames_are_given_back_when_the_queue_stops_in_mid_wrap() -> None:
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(3)
        for n in range(8):
            r.a.driver.send(frame(n))
        r.settle()
        r.a.driver.reclaim()
        for n in range(8, 11):
            r.a.driver.send(frame(n))
        r.settle()
        base = r.a.port.stop_queue(1)
        assert base == 3 | 1 << 15 | 3 << 16 | 1 << 31
        r.a.start(1, base=base)
        r.b.driver.post(5)
        r.settle()
        arrived = r.b.driver.receive_all()
        r.settle()
        assert arrived + r.b.driver.receive_all() == [frame(n) for n in range(11)]


def test_a_base_that_tells_only_the_available_half_means_that_nothing_is_in_flight() -> None:
    """DPDK's virtio-user sends 1 << 15 and leaves the used half 0."""
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(3)
        for index in range(2):
            r.a.port.stop_queue(index)
            r.a.start(index, base=1 << 15)
        r.a.driver.send(frame(1))
        r.settle()
        assert r.b.driver.receive(0) == frame(1)
        assert len(r.a.queues[1].take_used()) == 1


@pytest.mark.parametrize("posted", [0, 3])
def test_base_0_of_a_ring_that_was_never_used_is_its_start(posted: int) -> None:
    """User-mode Linux says 0, whatever the format."""
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(posted)
        for index in range(2):
            r.b.port.stop_queue(index)
            r.b.start(index, base=0)
            assert r.b.port.queue_setup(index).base == 1 << 15 | 1 << 31
        r.b.driver.post(4 - posted)
        for n in range(20):
            r.a.driver.send(frame(n))
            r.settle()
            assert r.b.driver.receive(0) == frame(n)
            r.a.driver.reclaim()


@pytest.mark.parametrize("laps", [1, 3])
@pytest.mark.parametrize("at_once", [1, 4, 8])
@pytest.mark.parametrize("sent", [0, 2])
def test_base_0_after_an_odd_number_of_laps_goes_on_there(laps: int, at_once: int, sent: int) -> None:
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(8)
        for n in range(0, 8 * laps, at_once):
            for i in range(n, n + at_once):
                r.a.driver.send(frame(i))
            r.settle()
            assert r.b.driver.receive_all() == [frame(i) for i in range(n, n + at_once)]
            r.a.driver.reclaim()
        assert r.a.port.stop_queue(1) == 0
        for n in range(sent):
            r.a.driver.send(frame(100 + n))
        r.a.start(1, base=0)
        assert r.settle() == sent
        r.a.driver.send(frame(102))
        r.settle()
        assert r.b.driver.receive_all() == [frame(100 + n) for n in range(sent)] + [frame(102)]


@pytest.mark.parametrize("base", [8, 8 << 16, 0x7FFF, 2**32, -1])
def test_a_base_beyond_the_ring_is_refused(base: int) -> None:
    with rig(size=8, features=PACKED) as r:
        r.a.port.stop_queue(1)
        with pytest.raises(ValueError, match="base"):
            r.a.start(1, base=base)


def test_kicks_are_suppressed_and_interrupts_follow_the_drivers_wish() -> None:
    with rig(features=PACKED | RING_F_EVENT_IDX) as r:
        q = r.b.queues[0]
        assert q.device_flags == EVENT_DISABLE
        r.b.driver.post(64)
        q.set_no_interrupt(True)
        r.a.driver.send(frame(0))
        r.settle()
        assert r.b.calls(0) == 0
        q.set_no_interrupt(False)
        r.a.driver.send(frame(1))
        r.settle()
        assert r.b.calls(0) == 1
        q.set_used_event(4, True)
        for n in range(2):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.calls(0) == 0
        r.a.driver.send(frame(4))
        r.settle()
        assert r.b.calls(0) == 1


def test_an_event_beyond_the_wrap_is_met_only_after_it() -> None:
    with rig(size=8, features=PACKED | RING_F_EVENT_IDX) as r:
        q = r.b.queues[0]
        r.b.driver.post(8)
        q.set_used_event(1, False)  # the second descriptor of the next round
        for n in range(9):
            r.a.driver.send(frame(n))
            r.settle()
            r.a.driver.reclaim()
            r.b.driver.receive(0)
            assert r.b.calls(0) == 0
        r.a.driver.send(frame(9))
        r.settle()
        assert r.b.calls(0) == 1


def test_a_chain_round_the_whole_ring_stops_the_queue_once_what_was_sent_before_it_has_become_a_part_of_it() -> None:
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(8)
        q, sent = r.a.queues[1], 3
        for n in range(sent):
            r.a.driver.send(frame(n))
        for i in range(sent, 8):
            r.a.memory.pack(PACKED_DESCRIPTOR, q.at(i), 0x10000, 1, 0, DESC_F_NEXT | DESC_F_AVAIL)
        r.worker.step()
        assert r.a.port.queue_state(1).broken == ""
        for i in range(sent):  # what came back makes the chain longer, round the whole ring
            r.a.memory.pack(PACKED_DESCRIPTOR, q.at(i), 0x10000, 1, 0, DESC_F_NEXT | DESC_F_USED)
        for _ in range(2):
            r.worker.step()
        assert "loops" in r.a.port.queue_state(1).broken
        assert r.b.driver.receive_all() == [frame(n) for n in range(sent)]
        assert r.a.port.counters().rx_dropped["bad_descriptor"] == 1


def test_what_is_sent_from_an_indirect_table_may_be_marked_writable_as_dpdk_does() -> None:
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(1)
        data = bytes(12) + frame(5)
        at = r.a.memory.take(len(data))
        r.a.memory.write(at, data)
        q = r.a.queues[1]
        q.make_available(q.chain([q.indirect([Piece(at, 12, writable=True), Piece(at + 12, len(data) - 12)])]))
        r.settle()
        assert r.b.driver.receive(0) == frame(5)


@pytest.mark.parametrize("flags", [0, DESC_F_USED, DESC_F_AVAIL | DESC_F_USED])
def test_a_wrong_wrap_counter_is_simply_not_available(flags: int) -> None:
    with rig(size=8, features=PACKED) as r:
        q = r.a.queues[1]
        r.a.memory.pack(PACKED_DESCRIPTOR, q.at(0), 0x10000, 50, 0, flags)
        r.a.memory.pack(PACKED_DESCRIPTOR, q.at(1), 0x10000, 50, 0, DESC_F_AVAIL)
        assert r.worker.step() == 0
        assert counts.outstanding(r.a.port, 1) == 0
        assert r.a.port.queue_state(1).broken == ""


def test_the_id_of_a_chain_is_that_of_its_last_descriptor() -> None:
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(1)
        q, at = r.a.queues[1], r.a.memory.take(200)
        r.a.memory.write(at, bytes(12) + frame(1))
        r.a.memory.pack(PACKED_DESCRIPTOR, q.at(1), at + 40, 32, 7, DESC_F_AVAIL)
        r.a.memory.pack(PACKED_DESCRIPTOR, q.at(0), at, 40, 5, DESC_F_AVAIL | DESC_F_NEXT)
        r.settle()
        assert r.b.driver.receive_all() == [frame(1)]
        assert r.a.memory.unpack(PACKED_DESCRIPTOR, q.at(0))[2] == 7


def test_duplicate_and_out_of_range_ids_come_back_as_they_were_given() -> None:
    with rig(size=8, features=PACKED) as r:
        r.b.driver.post(8)
        q = r.a.queues[1]
        at = r.a.memory.take(200)
        r.a.memory.write(at, bytes(12) + frame(5))
        for i, ident in enumerate([7, 7, 0xFFFF]):
            r.a.memory.pack(PACKED_DESCRIPTOR, q.at(i), at, 72, ident, DESC_F_AVAIL)
        r.settle()
        assert r.b.driver.receive_all() == [frame(5)] * 3
        back = [r.a.memory.unpack(PACKED_DESCRIPTOR, q.at(i)) for i in range(3)]
        assert [b[2] for b in back] == [7, 7, 0xFFFF]
        assert all(b[3] & (DESC_F_AVAIL | DESC_F_USED) == DESC_F_AVAIL | DESC_F_USED for b in back)


def test_a_driver_that_offers_more_than_the_ring_holds_cannot_make_the_device_overrun_it() -> None:
    """Held frames keep their descriptors; a hostile driver that makes those available again is ignored."""
    with rig(size=8, features=PACKED) as r:
        for n in range(8):
            r.a.driver.send(frame(n))
        r.settle()
        q = r.a.queues[1]
        for i in range(8):
            r.a.memory.pack(PACKED_DESCRIPTOR, q.at(i), 0x10000, 72, i, DESC_F_USED)  # the next round's marks
        r.b.driver.post(8)
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(8)]
