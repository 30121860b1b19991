"""A driver that breaks the rules of its ring stops that ring and nothing else. Virtio 1.2, section 2.7."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Piece, SplitQueue
from tests.unit.rig import F_VERSION_1, RING_F_INDIRECT_DESC, Rig, frame, rig

Attack = Callable[[SplitQueue, int], None]


def head_beyond(q: SplitQueue, _buffer: int) -> None:
    q.make_available(q.size)


def avail_jump(q: SplitQueue, _buffer: int) -> None:
    q.set_avail_index(q.used_index + q.size + 1)


def next_beyond(q: SplitQueue, buffer: int) -> None:
    q.write_descriptor(0, buffer, 20, DESC_F_NEXT, q.size)
    q.make_available(0)


def self_loop(q: SplitQueue, buffer: int) -> None:
    q.write_descriptor(0, buffer, 0, DESC_F_NEXT, 0)
    q.make_available(0)


def long_loop(q: SplitQueue, buffer: int) -> None:
    for i in range(q.size):
        q.write_descriptor(i, buffer, 1, DESC_F_NEXT, (i + 1) % q.size)
    q.make_available(0)


def outside(addr: int, length: int) -> Attack:
    def attack(q: SplitQueue, _buffer: int) -> None:
        q.write_descriptor(0, addr, length)
        q.make_available(0)

    return attack


def one_byte_outside(q: SplitQueue, _buffer: int) -> None:
    region = q.memory.regions[0]
    q.write_descriptor(0, region.guest_addr + region.bytes - 99, 100)
    q.make_available(0)


def writable_in_transmitq(q: SplitQueue, buffer: int) -> None:
    q.write_descriptor(0, buffer, 100, DESC_F_WRITE)
    q.make_available(0)


def writable_behind_readable(q: SplitQueue, buffer: int) -> None:
    q.make_available(q.chain([Piece(buffer, 50), Piece(buffer + 50, 50, writable=True)]))


def indirect_table(length: int, addr: int | None = None, flags: int = 0) -> Attack:
    def attack(q: SplitQueue, buffer: int) -> None:
        q.write_descriptor(0, buffer if addr is None else addr, length, DESC_F_INDIRECT | flags, 1)
        q.make_available(0)

    return attack


def nested(q: SplitQueue, buffer: int) -> None:
    inner = q.indirect([Piece(buffer, 100)])
    q.make_available(q.chain([q.indirect([inner])]))


def indirect_loop(q: SplitQueue, buffer: int) -> None:
    table = q.indirect([Piece(buffer, 10), Piece(buffer, 10)])
    q.memory.write(table.addr + 16, buffer.to_bytes(8, "little") + (10).to_bytes(4, "little") + b"\x01\x00\x00\x00")
    q.make_available(q.chain([table]))


def indirect_next_beyond(q: SplitQueue, buffer: int) -> None:
    table = q.indirect([Piece(buffer, 10)])
    q.memory.write(table.addr, buffer.to_bytes(8, "little") + (10).to_bytes(4, "little") + b"\x01\x00\x01\x00")
    q.make_available(q.chain([table]))


ATTACKS = {
    "head_beyond_queue": (head_beyond, "beyond the queue"),
    "avail_jump": (avail_jump, "available index"),
    "next_beyond_table": (next_beyond, "next field"),
    "self_loop_of_length_zero": (self_loop, "loops"),
    "loop_through_the_whole_table": (long_loop, "loops"),
    "address_zero": (outside(0, 100), "shared memory"),
    "address_at_the_top": (outside(2**64 - 1, 100), "shared memory"),
    "address_that_wraps": (outside(2**64 - 50, 100), "shared memory"),
    "length_at_its_maximum": (outside(0x10000, 0xFFFFFFFF), "shared memory"),
    "one_byte_outside": (one_byte_outside, "shared memory"),
    "writable_in_transmitq": (writable_in_transmitq, "device-writable"),
    "writable_behind_readable": (writable_behind_readable, "device-writable"),
    "indirect_table_empty": (indirect_table(0), "indirect table"),
    "indirect_table_of_8_bytes": (indirect_table(8), "indirect table"),
    "indirect_table_of_17_bytes": (indirect_table(17), "indirect table"),
    "indirect_table_too_long": (indirect_table(16 * 32769), "indirect table"),
    "indirect_table_outside": (indirect_table(16, addr=2**40), "shared memory"),
    "indirect_with_next": (indirect_table(16, flags=DESC_F_NEXT), "indirect"),
    "indirect_nested": (nested, "indirect"),
    "indirect_loop": (indirect_loop, "loops"),
    "indirect_next_beyond_table": (indirect_next_beyond, "next field"),
}


def recovers(r: Rig) -> None:
    """The ring works again once it is set up anew."""
    q = r.a.queues[1]
    r.a.port.stop_queue(1)
    q.reset()
    r.a.start(1)
    r.b.driver.post(1)
    r.a.driver.send(frame(99))
    r.settle()
    assert r.b.driver.receive_all()[-1] == frame(99)


@pytest.mark.parametrize("name", ATTACKS)
def test_breaking_the_rules_in_the_transmitq_stops_it_once_and_setting_it_up_again_recovers(name: str) -> None:
    attack, words = ATTACKS[name]
    with rig() as r:
        r.b.driver.post(3)
        r.a.driver.post(3)
        attack(r.a.queues[1], r.a.memory.take(4096))
        for _ in range(5):
            r.worker.step()
        broken = [e for e in r.a.port.events() if e[0] == "broken"]
        assert len(broken) == 1
        assert broken[0][1] == 1
        assert words in broken[0][2]
        assert words in r.a.port.queue_state(1).broken
        assert r.a.port.counters().rx_dropped["bad_descriptor"] == 1
        assert r.b.driver.receive_all() == []
        r.b.driver.send(frame(1))  # the other direction goes on
        r.settle()
        assert r.a.driver.receive(0) == frame(1)
        recovers(r)


def test_frames_before_the_bad_chain_in_the_same_burst_still_arrive() -> None:
    with rig() as r:
        r.b.driver.post(10)
        for n in range(5):
            r.a.driver.send(frame(n))
        r.a.queues[1].make_available(r.a.queues[1].size)
        for n in range(5):
            r.a.driver.send(frame(n))
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(5)]
        assert len(r.a.queues[1].take_used()) == 5


def test_frames_between_chains_that_are_none_arrive_before_the_bad_chain_behind_them_stops_the_ring() -> None:
    with rig() as r:
        r.b.driver.post(10)
        for data in (b"short", frame(1), b"short", frame(2)):
            r.a.driver.send(data)
        r.a.queues[1].make_available(r.a.queues[1].size)
        for _ in range(6):
            r.worker.step()
        assert r.b.driver.receive_all() == [frame(1), frame(2)]
        assert len(r.a.queues[1].take_used()) == 4
        assert [e[:2] for e in r.a.port.events() if e[0] == "broken"] == [("broken", 1)]
        dropped = r.a.port.counters().rx_dropped
        assert (dropped["runt"], dropped["bad_descriptor"]) == (2, 1)


def test_an_index_that_jumps_stops_the_ring_behind_the_entries_that_were_known_before() -> None:
    with rig() as r:
        r.b.driver.post(128)
        r.a.driver.send_at_once(*[frame(n) for n in range(128)])
        r.worker.step()
        r.a.queues[1].set_avail_index(r.a.queues[1].avail_index + 5000)
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(128)]
        assert "ran ahead" in r.a.port.queue_state(1).broken
        assert len(r.a.queues[1].take_used()) == 128


@pytest.mark.parametrize("room", [0, 1, 2])
def test_frames_of_a_burst_that_meets_a_bad_receive_chain_are_counted_once(room: int) -> None:
    with rig() as r:
        r.b.driver.post(room)
        r.b.driver.post_chain([Piece(1 << 50, 2048, writable=True)])
        r.a.driver.send_at_once(*[frame(n) for n in range(3)])
        r.settle()
        assert r.b.driver.receive_all() == [frame(n) for n in range(room)]
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["bad_descriptor"], dropped["ring_disabled"]) == (1, 2 - room)


@pytest.mark.parametrize("name", ["head_beyond_queue", "avail_jump", "self_loop_of_length_zero", "one_byte_outside"])
def test_breaking_the_rules_in_the_receiveq_stops_it_and_the_sender_goes_on(name: str) -> None:
    attack, _ = ATTACKS[name]
    with rig() as r:
        attack(r.b.queues[0], r.b.memory.take(4096))
        for n in range(5):
            r.a.driver.send(frame(n))
        r.worker.step()
        r.settle()
        assert [e[:2] for e in r.b.port.events() if e[0] == "broken"] == [("broken", 0)]
        dropped = r.b.port.counters().tx_dropped
        assert (dropped["bad_descriptor"], dropped["ring_disabled"]) == (1, 4)  # each frame once
        assert len(r.a.queues[1].take_used()) == 5


def test_a_readable_descriptor_in_the_receiveq_breaks_it() -> None:
    with rig() as r:
        q = r.b.queues[0]
        q.make_available(q.chain([Piece(r.b.memory.take(100), 100)]))
        r.a.driver.send(frame(1))
        r.settle()
        assert "device-readable" in r.b.port.queue_state(0).broken


@pytest.mark.parametrize("length", [0, 1, 11])
def test_a_receive_chain_shorter_than_its_header_breaks_the_receiveq(length: int) -> None:
    with rig() as r:
        r.b.driver.post_chain([Piece(r.b.memory.take(100), length, writable=True)])
        r.a.driver.send(frame(1))
        r.settle()
        assert "too short" in r.b.port.queue_state(0).broken


def test_an_indirect_descriptor_that_was_not_negotiated_breaks_the_queue() -> None:
    assert RING_F_INDIRECT_DESC
    with rig(features=F_VERSION_1) as r:
        q = r.a.queues[1]
        q.make_available(q.chain([q.indirect([Piece(r.a.memory.take(100), 100)])]))
        r.settle()
        assert "not negotiated" in r.a.port.queue_state(1).broken


def test_the_same_head_twice_is_delivered_twice_and_harms_nobody() -> None:
    with rig() as r:
        r.b.driver.post(3)
        head = r.a.driver.send(frame(1))
        r.a.queues[1].make_available(head)
        r.settle()
        assert r.b.driver.receive_all() == [frame(1), frame(1)]
        assert [u.head for u in r.a.queues[1].take_used()] == [head, head]
