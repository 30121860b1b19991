"""Counts are checked: those of a port by the forwarder, those of the forwarder by a ring.

A port that said "61 of 60 frames" once made the forwarder hand 2^32 chains back to the sender, out of its own heap.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.dataplane.worker import Worker
from tests.driver import DESC_F_WRITE, Memory, SplitQueue
from tests.probes import counts
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, Rig, frame, rig

F_IN_ORDER = 1 << 35
FORMATS = {
    "split": F_VERSION_1,
    "packed": F_VERSION_1 | F_RING_PACKED,
    "split in order": F_VERSION_1 | F_IN_ORDER,
    "packed in order": F_VERSION_1 | F_RING_PACKED | F_IN_ORDER,
}
EACH_FORMAT = pytest.mark.parametrize("features", FORMATS.values(), ids=FORMATS)


def dropped(r: Rig) -> dict[str, int]:
    """By reason, at the port that frames go to."""
    return {reason: n for reason, n in r.b.port.counters().tx_dropped.items() if n}


# The forwarder and its ports


@pytest.mark.parametrize("n", [1, 2, 63, 64])
@pytest.mark.parametrize("hold", [True, False])
def test_whatever_an_egress_returns_no_more_chains_are_released_than_were_received(n: int, hold: bool) -> None:
    for answer in (*range(n + 2), 2 * n, 2**31, 2**32 - 1):
        worker = Worker(Door())
        ingress = counts.ScriptedPort("in", supply=n, fills=n)
        egress = counts.ScriptedPort("out", answer=answer)
        worker.add_wire(ingress, egress, hold=hold, hold_timeout_ms=60_000)
        worker.step()
        assert ingress.released == (min(answer, n) if hold else n)
        egress.set_answer(64)
        worker.step()
        assert (ingress.released, ingress.out_of_order) == (n, 0)
        worker.step()
        assert ingress.released == n
        worker.close()


@pytest.mark.parametrize("excess", [1, 63, 1000, 2**31 - 65, -1, -64])
def test_an_ingress_that_says_another_number_than_it_filled_in_has_as_many_as_are_there(excess: int) -> None:
    worker = Worker(Door())
    ingress = counts.ScriptedPort("in", supply=10, fills=10, excess=excess)
    egress = counts.ScriptedPort("out", answer=2**32 - 1)
    worker.add_wire(ingress, egress, hold=True, hold_timeout_ms=60_000)
    for _ in range(3):
        worker.step()
    assert ingress.released <= 10
    assert egress.asked <= 10
    worker.close()


def test_an_egress_without_active_pairs_is_one_with_a_pair() -> None:
    worker = Worker(Door())
    ingress = counts.ScriptedPort("in", supply=10)
    egress = counts.ScriptedPort("out", answer=64)
    egress.set_active_pairs(0)
    worker.add_wire(ingress, egress, hold=True, hold_timeout_ms=60_000)
    worker.step()
    assert ingress.released == 10
    worker.close()


@pytest.mark.parametrize("n", [65, 257, 1025, 5000])
@pytest.mark.parametrize("features", [F_VERSION_1, F_VERSION_1 | NET_F_MRG_RXBUF, F_VERSION_1 | F_RING_PACKED])
def test_an_egress_that_is_given_more_frames_than_a_burst_has_room_for_deals_with_a_burst(
    features: int, n: int
) -> None:
    with rig(features=features, size=2048, b_size=2048) as r:
        r.b.driver.post(300)
        assert counts.deliver(r.b.port, n, 60) == 64
        assert (r.b.port.counters().tx_frames, dropped(r)) == (64, {})


def test_a_packet_port_that_is_given_more_frames_than_a_burst_has_room_for_sends_a_burst() -> None:
    port, (ours, theirs) = PacketPort("p", Door()), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        port.attach(bytearray(4096), 4096, ours.fileno(), ours.fileno(), ours.fileno())
        port.set_link(True)
        assert [counts.deliver(port, n, 60) for n in (65, 257)] == [64, 64]
        port.detach()


# A ring and its user


@EACH_FORMAT
@pytest.mark.parametrize("n", [4, 5, 255, 256, 257, 1000, 2**31, 2**32 - 1])
def test_a_ring_that_is_to_complete_more_than_it_gave_out_writes_nothing_and_breaks(features: int, n: int) -> None:
    with rig(features=features) as r:
        for number in range(8):
            r.a.driver.send(frame(number))
        assert counts.take_some(r.a.port, 1, 3) == 3
        before = r.a.memory.read(0x10000, 8 * MIB)
        counts.complete_unasked(r.a.port, 1, n)
        assert r.a.memory.read(0x10000, 8 * MIB) == before
        assert "more chains than it took" in r.a.port.queue_state(1).broken
        assert counts.outstanding(r.a.port, 1) == 3


@EACH_FORMAT
@pytest.mark.parametrize("n", [4, 257, 2**32 - 1])
def test_a_ring_that_is_given_back_more_than_it_gave_out_stays_where_it_is_and_breaks(features: int, n: int) -> None:
    with rig(features=features) as r:
        for number in range(8):
            r.a.driver.send(frame(number))
        counts.take_some(r.a.port, 1, 3)
        at = r.a.port.queue_state(1).next_avail
        counts.untake_unasked(r.a.port, 1, n)
        assert r.a.port.queue_state(1).next_avail == at
        assert "more chains than it took" in r.a.port.queue_state(1).broken


@pytest.mark.parametrize("slots", [0, 2, 300, 0xFFFF])
def test_a_packed_ring_writes_outstanding_descriptors_only_and_shows_none_of_a_wrong_number(slots: int) -> None:
    with rig(features=FORMATS["packed"]) as r:
        for number in range(8):
            r.a.driver.send(frame(number))
        counts.take_some(r.a.port, 1, 3)
        before = r.a.memory.read(0x10000, 8 * MIB)
        counts.complete_unasked(r.a.port, 1, 3, slots)
        now, outstanding = r.a.memory.read(0x10000, 8 * MIB), r.a.queues[1].at(0) - 0x10000
        assert now[:outstanding] == before[:outstanding]
        assert now[outstanding + 3 * 16 :] == before[outstanding + 3 * 16 :]
        assert slots == 0 or r.a.queues[1].take_used() == []
        assert "more chains than it took" in r.a.port.queue_state(1).broken


@EACH_FORMAT
def test_a_broken_ring_gives_nothing(features: int) -> None:
    with rig(features=features) as r:
        for number in range(8):
            r.a.driver.send(frame(number))
        counts.untake_unasked(r.a.port, 1, 1)
        assert counts.take_some(r.a.port, 1, 64) == 0
        assert counts.outstanding(r.a.port, 1) == 0


@pytest.mark.parametrize("name", ["split", "packed"])
def test_what_is_completed_is_shown_all_at_once_when_it_is_published(name: str) -> None:
    with rig(features=FORMATS[name]) as r:
        for number in range(8):
            r.a.driver.send(frame(number))
        assert counts.take_some(r.a.port, 1, 3) == 3
        counts.complete_unasked(r.a.port, 1, 3, publish=False)
        assert r.a.queues[1].take_used() == []
        counts.complete_unasked(r.a.port, 1, 0)
        assert len(r.a.queues[1].take_used()) == 3


def test_an_index_that_jumps_by_more_than_what_is_outstanding_leaves_room_for_breaks_the_ring() -> None:
    with rig(size=8) as r:
        r.a.driver.send_at_once(*[frame(number) for number in range(4)])
        assert counts.take_some(r.a.port, 1, 4) == 4
        q = r.a.queues[1]
        q.set_avail_index(q.avail_index + 5)
        assert counts.take_some(r.a.port, 1, 64) == 0
        assert "ran ahead" in r.a.port.queue_state(1).broken
        assert counts.outstanding(r.a.port, 1) == 4


# A frame that is too long for all chains of a ring, while that ring breaks


@EACH_FORMAT
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_ring_that_breaks_while_chains_for_one_frame_are_looked_for_takes_that_frame_only(
    features: int, size: int
) -> None:
    """The index was read once; when it is read again it has run ahead by more than the ring."""
    with rig(features=features, b_features=F_VERSION_1 | NET_F_MRG_RXBUF, b_size=size) as r:
        q, used = r.b.queues[0], r.a.port.queue_state(1).used_idx
        start = q.avail_index
        for index in range(size):
            q.write_descriptor(index, r.b.memory.take(100), 100, DESC_F_WRITE)
        q.place(*range(size))
        q.set_avail_index(start + size)
        r.a.driver.send(frame(1, 1514))
        r.worker.step()
        assert dropped(r) == {"oversize": 1}
        q.set_avail_index(start + size + 1)
        secrets = r.a.memory.read(0x10000 + 4 * MIB, 4 * MIB)
        for burst in (1, 2):
            r.a.driver.send_at_once(*[frame(burst, 1514)] * burst)
            r.settle()
        assert dropped(r) == {"oversize": 1, "bad_descriptor": 1, "ring_disabled": 2}
        assert "ran ahead" in r.b.port.queue_state(0).broken
        assert (r.a.port.queue_state(1).used_idx - used) % 256 == 4
        assert r.a.memory.read(0x10000 + 4 * MIB, 4 * MIB) == secrets
        assert counts.outstanding(r.a.port, 1) == 0
        assert counts.outstanding(r.b.port, 0) == 0


# The index moves between two takes of one delivery


class Moving:
    """A receiveq whose driver posts, and jumps, between any two looks of the device."""

    def __init__(self, r: Rig, moves: list[tuple[int, int]]) -> None:
        self.r, self.q, self.moves = r, r.b.queues[0], moves
        self.posted = 0

    def post(self, bytes: int) -> None:
        """One buffer more, if there is a descriptor for it."""
        if self.posted < self.q.size:
            self.r.b.driver.post(1, bytes)
            self.posted += 1

    def __call__(self, _number: int) -> None:
        if self.moves:
            bytes, jump = self.moves.pop(0)
            if bytes:
                self.post(bytes)
            if jump and isinstance(self.q, SplitQueue):
                self.q.set_avail_index(self.q.avail_index + jump & 0xFFFF)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([1, 2, 4, 8]),
    packed=st.booleans(),
    mergeable=st.booleans(),
    at_first=st.lists(st.sampled_from([12, 13, 60, 100, 2048]), max_size=8),
    moves=st.lists(st.tuples(st.sampled_from([0, 0, 12, 100, 2048]), st.sampled_from([0, 0, 0, 1, 3, 9])), max_size=8),
    bursts=st.lists(st.lists(st.sampled_from([14, 60, 88, 89, 800, 1514]), min_size=1, max_size=6), max_size=4),
)
def test_completions_never_exceed_what_was_taken_whatever_the_index_does_meanwhile(
    size: int, packed: bool, mergeable: bool, at_first: list[int], moves: list[Any], bursts: list[list[int]]
) -> None:
    b_features = F_VERSION_1 | (F_RING_PACKED if packed else 0) | (NET_F_MRG_RXBUF if mergeable else 0)
    memory, b_memory = Memory.of(MIB), Memory.of(MIB)
    with rig(
        features=F_VERSION_1, b_features=b_features, b_size=size, memory=memory, b_memory=b_memory, hold=False
    ) as r:
        moving = Moving(r, list(moves))
        for bytes in at_first:
            moving.post(bytes)
        counts.count_ring(r.b.port, 0, moving)
        sent = 0
        for lengths in bursts:
            r.a.driver.send_at_once(*(frame(sent + i, length) for i, length in enumerate(lengths)))
            sent += len(lengths)
            r.settle()
        seen = counts.counts()
        assert seen["too many"] == 0
        assert seen["completed"] + seen["given back"] + counts.outstanding(r.b.port, 0) == seen["taken"]
        assert seen["completed"] <= moving.posted or not packed
        a, b = r.a.port.counters(), r.b.port.counters()
        assert a.rx_frames == sent == b.tx_frames + sum(b.tx_dropped.values())
        assert counts.outstanding(r.a.port, 1) == 0
        counts.count_ring(r.a.port, 0, None)
