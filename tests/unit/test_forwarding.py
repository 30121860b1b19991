"""Frames from guest to guest through the real data plane, stepped by hand: content, order, layouts, back-pressure."""

from __future__ import annotations

import pytest

from tests.driver import Memory, Piece, Region
from tests.unit.rig import (
    F_RING_PACKED,
    F_VERSION_1,
    MIB,
    NET_F_MRG_RXBUF,
    RING_F_EVENT_IDX,
    RING_F_INDIRECT_DESC,
    Rig,
    frame,
    mapped,
    rig,
)

BOTH_LAYOUTS = pytest.mark.parametrize(
    "features", [0, F_VERSION_1, NET_F_MRG_RXBUF, F_VERSION_1 | NET_F_MRG_RXBUF | RING_F_EVENT_IDX]
)


def dropped(counts: dict[str, int]) -> dict[str, int]:
    return {reason: n for reason, n in counts.items() if n}


@BOTH_LAYOUTS
@pytest.mark.parametrize("bytes", [14, 60, 63, 64, 65, 127, 128, 129, 1514, 2000])
def test_a_frame_of_any_length_arrives_whole_in_every_header_layout(features: int, bytes: int) -> None:
    with rig(features=features) as r:
        r.b.driver.post(2)
        r.a.driver.send(frame(7, bytes))
        assert r.settle() == 1
        assert r.b.driver.receive() == frame(7, bytes)
        header = r.b.driver.received_header
        assert header == bytes_of_header(r.b.driver.header_bytes)
        assert len(r.a.queues[1].take_used()) == 1


def bytes_of_header(n: int) -> bytes:
    return (bytes(10) + b"\x01\x00")[:n]


def test_seventy_thousand_frames_each_way_arrive_in_order_over_an_index_wrap() -> None:
    with rig(size=64, features=F_VERSION_1 | NET_F_MRG_RXBUF) as r:
        for side in (r.a, r.b):
            side.driver.post(64)
        for base in range(0, 70_000, 50):
            for n in range(base, base + 50):
                r.a.driver.send(frame(n))
                r.b.driver.send(frame(-n))
            r.settle()
            for n in range(base, base + 50):
                assert r.b.driver.receive(0) == frame(n)
                assert r.a.driver.receive(0) == frame(-n)
        a = r.a.port.counters()
        assert (a.rx_frames, a.tx_frames) == (70_000, 70_000)
        assert (a.rx_bytes, a.tx_bytes) == (70_000 * 60, 70_000 * 60)
        assert dropped(a.rx_dropped) == dropped(a.tx_dropped) == {}


CUTS = [
    [12],
    [1] * 12,
    [11, 1],
    [4, 4, 4],
    [4, 0, 4, 0, 4],
    [5, 20],
    [12, 0, 1, 0, 13],
    [26, 0],
    [1] * 40,
]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_sent_chain_may_be_cut_anywhere(cut: list[int], indirect: bool) -> None:
    with rig() as r:
        r.b.driver.post(1)
        data = bytes(12) + frame(3, 200)
        pieces, at = [], r.a.memory.take(len(data))
        r.a.memory.write(at, data)
        for length in [*cut, len(data) - sum(cut)]:
            pieces.append(Piece(at, length))
            at += length
        q = r.a.queues[1]
        q.make_available(q.chain([q.indirect(pieces)] if indirect else pieces))
        r.settle()
        assert r.b.driver.receive(0) == frame(3, 200)
        assert len(q.take_used()) == 1


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cut", [[1] * 30, [12], [11, 1], [4, 0, 4, 4, 3], [0, 12, 0]], ids=str)
def test_a_receive_chain_may_be_cut_anywhere(cut: list[int], indirect: bool) -> None:
    with rig() as r:
        pieces, at = [], r.b.memory.take(2048)
        for length in [*cut, 2048 - sum(cut)]:
            pieces.append(Piece(at, length, writable=True))
            at += length
        q = r.b.queues[0]
        head = q.chain([q.indirect(pieces)] if indirect else pieces)
        r.b.driver.receive_buffers[head] = pieces
        q.make_available(head)
        r.a.driver.send(frame(9, 777))
        r.settle()
        assert r.b.driver.receive(0, repost=False) == frame(9, 777)


def test_direct_descriptors_before_an_indirect_table_are_one_chain() -> None:
    with rig() as r:
        r.b.driver.post(1)
        data = bytes(12) + frame(4, 100)
        at = r.a.memory.take(len(data))
        r.a.memory.write(at, data)
        q = r.a.queues[1]
        table = q.indirect([Piece(at + 20, 30), Piece(at + 50, len(data) - 50)])
        q.make_available(q.chain([Piece(at, 20), table]))
        r.settle()
        assert r.b.driver.receive(0) == frame(4, 100)


def test_a_chain_as_long_as_the_queue_is_legal() -> None:
    with rig(size=128) as r:
        r.b.driver.post(1)
        data = bytes(12) + frame(5, 128)
        at = r.a.memory.take(len(data))
        r.a.memory.write(at, data)
        q = r.a.queues[1]
        pieces = [Piece(at + i, 1) for i in range(127)] + [Piece(at + 127, len(data) - 127)]
        q.make_available(q.chain(pieces))
        r.settle()
        assert r.b.driver.receive(0) == frame(5, 128)


def test_a_frame_larger_than_a_buffer_takes_several_mergeable_ones() -> None:
    with rig(features=F_VERSION_1 | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(100, bytes=600)
        for n, bytes in enumerate([60, 9000, 64, 588, 589, 1189, 60]):
            r.a.driver.send(frame(n, bytes))
        r.settle()
        for n, bytes in enumerate([60, 9000, 64, 588, 589, 1189, 60]):
            assert r.b.driver.receive(0) == frame(n, bytes)
        assert r.b.port.counters().tx_frames == 7


def test_the_largest_frame_passes_over_buffers_of_one_hundred_bytes() -> None:
    with rig(size=1024, features=F_VERSION_1 | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(1000, bytes=100)
        r.a.driver.send(frame(1, 65549))
        r.settle()
        assert r.b.driver.receive(0) == frame(1, 65549)


@pytest.mark.parametrize("at_once", [True, False])
def test_without_mergeable_buffers_a_frame_too_long_is_dropped_and_its_buffer_kept(at_once: bool) -> None:
    with rig() as r:
        r.b.driver.post(1, bytes=1000)
        r.a.driver.send(frame(1, 989))
        if not at_once:
            r.settle()
        r.a.driver.send(frame(2, 988))
        r.settle()
        assert r.b.driver.receive(0) == frame(2, 988)
        assert dropped(r.b.port.counters().tx_dropped) == {"oversize": 1}
        # The driver took the first one back before it sent another.
        assert len(r.a.queues[1].take_used()) == (2 if at_once else 1)


def test_a_frame_larger_than_all_buffers_that_a_ring_can_hold_is_dropped_not_waited_for() -> None:
    with rig(size=4, features=F_VERSION_1 | NET_F_MRG_RXBUF) as r:
        r.b.driver.post(4, bytes=100)
        r.a.driver.send(frame(1, 500))
        r.a.driver.send(frame(2, 380))
        r.settle()
        assert r.b.driver.receive(0, repost=False) == frame(2, 380)
        assert dropped(r.b.port.counters().tx_dropped) == {"oversize": 1}


@pytest.mark.parametrize(
    ("total", "reason"),
    [(0, "runt"), (1, "runt"), (11, "runt"), (12, "runt"), (25, "runt"), (26, None), (65562, "oversize")],
)
def test_a_chain_without_a_whole_header_and_ethernet_header_is_a_runt(total: int, reason: str | None) -> None:
    with rig() as r:
        r.b.driver.post(4)
        q = r.a.queues[1]
        at = r.a.memory.take(max(total, 1))
        q.make_available(q.chain([Piece(at, total)]))
        r.a.driver.send(frame(1))
        r.settle()
        if reason is None:
            assert r.b.driver.receive(0) == bytes(14)
        assert r.b.driver.receive(0) == frame(1)
        assert dropped(r.a.port.counters().rx_dropped) == ({reason: 1} if reason else {})
        assert len(q.take_used()) == 2


@pytest.mark.parametrize("header", [b"\x01", b"\x00\x01", b"\x00\x83", b"\x03\x04"])
def test_an_offload_that_was_not_negotiated_is_a_counted_drop(header: bytes) -> None:
    with rig() as r:
        r.b.driver.post(4)
        for n in range(3):
            r.a.driver.send(frame(n))
            r.a.driver.send(frame(n), header=header.ljust(6, b"\0") + b"\x22\0\x10\0\0\0")  # csum_start 34, offset 16
        r.settle()
        assert r.b.driver.receive_all() == [frame(0), frame(1), frame(2)]
        assert dropped(r.a.port.counters().rx_dropped) == {"gso_unsupported": 3}
        assert len(r.a.queues[1].take_used()) == 6


def test_data_valid_in_the_header_is_no_offload_and_not_passed_on() -> None:
    with rig() as r:
        r.b.driver.post(1)
        r.a.driver.send(frame(1), header=b"\x02".ljust(12, b"\0"))
        r.settle()
        assert r.b.driver.receive(0) == frame(1)
        assert r.b.driver.received_header == bytes_of_header(12)


def test_a_full_egress_holds_frames_in_the_ingress_ring_until_it_moves_again() -> None:
    with rig() as r:
        r.b.driver.post(3)
        for n in range(10):
            r.a.driver.send(frame(n))
        assert r.settle() == 3
        assert len(r.a.queues[1].take_used()) == 3
        r.b.driver.post(7)
        assert r.settle() == 7
        assert r.b.driver.receive_all() == [frame(n) for n in range(10)]
        assert dropped(r.b.port.counters().tx_dropped) == {}


def test_an_egress_that_stands_still_for_the_hold_time_loses_frames_until_it_moves() -> None:
    with rig(hold_timeout_ms=0) as r:
        r.b.driver.post(1)
        for n in range(5):
            r.a.driver.send(frame(n))
        r.settle()
        assert dropped(r.b.port.counters().tx_dropped) == {"no_receive_buffers": 4}
        r.b.driver.post(2)
        r.a.driver.send(frame(5))
        r.settle()
        assert r.b.driver.receive_all() == [frame(0), frame(5)]


def test_on_full_drop_counts_what_does_not_fit_at_once() -> None:
    with rig(hold=False) as r:
        r.b.driver.post(3)
        for n in range(10):
            r.a.driver.send(frame(n))
        assert r.settle() == 10
        assert r.b.driver.receive_all() == [frame(n) for n in range(3)]
        assert dropped(r.b.port.counters().tx_dropped) == {"no_receive_buffers": 7}


def test_without_a_peer_frames_drop_as_link_down_and_the_sender_never_hangs() -> None:
    r = Rig()
    r.a.connect()
    for n in range(100):
        r.a.driver.send(frame(n))
    r.settle()
    assert len(r.a.queues[1].take_used()) == 100
    assert dropped(r.b.port.counters().tx_dropped) == {"link_down": 100}
    r.close()


def test_a_started_but_disabled_transmitq_is_drained_and_discarded() -> None:
    with rig() as r:
        r.b.driver.post(5)
        r.a.port.set_enabled(1, False)
        for n in range(5):
            r.a.driver.send(frame(n))
        r.settle()
        assert len(r.a.queues[1].take_used()) == 5
        assert r.b.driver.receive_all() == []
        assert dropped(r.a.port.counters().rx_dropped) == {"ring_disabled": 5}
        r.a.port.set_enabled(1, True)
        r.a.driver.send(frame(6))
        r.settle()
        assert r.b.driver.receive_all() == [frame(6)]


def test_a_disabled_receiveq_gets_nothing() -> None:
    with rig() as r:
        r.b.driver.post(5)
        r.b.port.set_enabled(0, False)
        r.a.driver.send(frame(1))
        r.settle()
        assert r.b.driver.receive_all() == []
        assert dropped(r.b.port.counters().tx_dropped) == {"ring_disabled": 1}


def test_stopping_returns_the_next_available_index_with_held_chains_given_back() -> None:
    with rig() as r:
        r.b.driver.post(3)
        for n in range(10):
            r.a.driver.send(frame(n))
        r.settle()
        base = r.a.port.stop_queue(1)
        assert base == (r.a.queues[1].base + 3) & 0xFFFF
        assert r.a.port.stop_queue(1) == base
        assert r.a.queues[1].used_index == base
        assert r.b.port.stop_queue(0) == (r.b.queues[0].base + 3) & 0xFFFF
        r.a.start(1, base=base)
        r.b.start(0, base=(r.b.queues[0].base + 3) & 0xFFFF)
        r.b.driver.post(7)
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(10)]
        counters = r.a.port.counters()
        assert counters.rx_frames == 10
        assert counters.rx_bytes == 600


@pytest.mark.parametrize("features", [F_VERSION_1, F_VERSION_1 | F_RING_PACKED], ids=["split", "packed"])
def test_frames_that_wait_while_the_other_ring_of_their_port_is_stopped_arrive_once(features: int) -> None:
    n = 128
    with rig(features=features) as r:
        r.a.driver.send_at_once(*[frame(i) for i in range(n)])
        r.worker.step()  # b has no buffers, so that a burst waits
        r.a.port.stop_queue(0)
        r.b.driver.post(n)
        r.settle()
        assert r.b.driver.receive_all() == [frame(i) for i in range(n)]
        assert r.a.driver.reclaim() == n
        r.a.start(1, base=r.a.port.stop_queue(1))
        r.b.driver.post(n)
        assert r.settle() == 0
        assert r.a.port.counters().rx_frames == r.b.port.counters().tx_frames == n


def test_chains_that_are_no_frames_are_counted_once_though_memory_changes_before_those_around_them_leave() -> None:
    with rig() as r:
        r.a.driver.send_at_once(b"short", frame(1), b"short", b"short", frame(2), b"short")
        for _ in range(4):
            r.worker.step()
            r.a.port.set_memory(mapped(r.a.memory))
        assert dropped(r.a.port.counters().rx_dropped) == {"runt": 1}
        r.b.driver.post(2)
        r.settle()
        assert r.b.driver.receive_all() == [frame(1), frame(2)]
        assert dropped(r.a.port.counters().rx_dropped) == {"runt": 4}
        assert r.a.driver.reclaim() == 6


def test_new_memory_under_traffic_moves_the_rings_along_and_loses_nothing() -> None:
    with rig() as r:
        r.b.driver.post(3)
        for n in range(10):
            r.a.driver.send(frame(n))
        r.settle()
        for side in (r.a, r.b):
            assert side.port.set_memory(mapped(side.memory)) == ()
        r.b.driver.post(7)
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(10)]


def test_an_armed_queue_starts_at_its_kick_or_when_buffers_are_found_in_it() -> None:
    with rig() as r:
        base = r.a.port.stop_queue(1)
        r.a.start(1, kicked=False, base=base)
        r.b.driver.post(3)
        r.settle()
        assert not r.a.port.queue_state(1).started
        r.a.driver.send(frame(1))
        r.settle()
        assert r.a.port.queue_state(1).started
        assert ("started", 1) in [e[:2] for e in r.a.port.events()]
        assert r.b.driver.receive_all() == [frame(1)]
        base = r.a.port.stop_queue(1)
        r.a.start(1, kicked=False, base=base)
        r.a.port.kick_queue(1)
        assert r.a.port.queue_state(1).started


def test_a_driver_that_wants_no_interrupts_gets_none_and_others_one_a_burst() -> None:
    with rig() as r:
        r.b.driver.post(64)
        r.b.queues[0].set_no_interrupt(True)
        r.a.queues[1].set_no_interrupt(True)
        for n in range(32):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.calls(0) == r.a.calls(1) == 0
        r.b.queues[0].set_no_interrupt(False)
        for n in range(32):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.calls(0) == 1
        assert r.b.port.counters().calls == 1


def test_with_event_idx_the_driver_is_told_when_its_event_is_passed_and_not_before() -> None:
    with rig(features=F_VERSION_1 | RING_F_EVENT_IDX) as r:
        q = r.b.queues[0]
        r.b.driver.post(64)
        q.set_used_event(q.base + 4)  # tell me when the fifth is used
        for n in range(4):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.calls(0) == 0
        r.a.driver.send(frame(4))
        r.settle()
        assert r.b.calls(0) == 1
        for n in range(8):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.calls(0) == 0


def test_kicks_are_suppressed_while_polling() -> None:
    with rig() as r:
        assert r.a.queues[0].used_flags == r.a.queues[1].used_flags == 1
    with rig(features=F_VERSION_1 | RING_F_EVENT_IDX) as r:
        q = r.a.queues[1]
        assert q.used_flags == 0
        # the next 65535 buffers do not pass it
        assert q.avail_event == (q.base - 1) & 0xFFFF


def test_memory_in_many_small_regions_works_with_buffers_across_their_borders() -> None:
    start = 0x10000 + 4 * MIB
    small = [Region(start + i * 4096, 4096, mmap_offset=4096 * (i % 3)) for i in range(500)]
    memory = Memory([Region(0x10000, 4 * MIB), *small])
    with rig(features=F_VERSION_1 | RING_F_INDIRECT_DESC, memory=memory) as r:
        data = bytes(12) + frame(8, 20_000)
        r.a.memory.write(start + 100, data)
        q = r.a.queues[1]
        q.make_available(q.chain([Piece(start + 100, len(data))]))
        r.b.driver.post_chain([Piece(r.b.memory.take(32768), 32768, writable=True)])
        table_at = start + 30 * 4096 - 24  # two descriptors, the second over a border
        table = q.indirect([Piece(start + 100, 50), Piece(start + 150, len(data) - 50)], table=table_at)
        q.make_available(q.chain([table]))
        r.b.driver.post_chain([Piece(r.b.memory.take(32768), 32768, writable=True)])
        r.settle()
        assert r.b.driver.receive(0) == frame(8, 20_000)
        assert r.b.driver.receive(0) == frame(8, 20_000)
        # and towards them
        q = r.a.queues[0]
        r.a.driver.post_chain([Piece(start + 300 * 4096 - 1000, 3000, writable=True)])
        r.b.driver.send(frame(2, 2500))
        r.settle()
        assert r.a.driver.receive(0) == frame(2, 2500)


@pytest.mark.parametrize("size", [1, 2, 32768])
def test_the_smallest_and_the_largest_ring_forward(size: int) -> None:
    with rig(size=size, memory=Memory.of(16 * MIB), b_memory=Memory.of(16 * MIB)) as r:
        for n in range(5):
            r.b.driver.post(1)
            r.a.driver.send(frame(n))
            r.settle()
            r.a.driver.reclaim()
            assert r.b.driver.receive(0, repost=False) == frame(n)


def test_a_legacy_guest_talks_to_a_modern_mergeable_one() -> None:
    with rig(features=0, b_features=F_VERSION_1 | NET_F_MRG_RXBUF) as r:
        r.a.driver.post(5)
        r.b.driver.post(5)
        r.a.driver.send(frame(1))
        r.b.driver.send(frame(2, 1500))
        r.settle()
        assert r.b.driver.receive(0) == frame(1)
        assert r.a.driver.receive(0) == frame(2, 1500)
