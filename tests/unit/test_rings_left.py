"""Rings that a driver leaves without GET_VRING_BASE: disabled, and set up anew elsewhere, as user-mode Linux does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.guests.short_dir import short_dir
from fastvhost.backend.features import F_RING_PACKED
from fastvhost.backend.payload import U64, VringAddr, VringState
from fastvhost.vhostuser.message import Request, VringFd
from fastvhost.vhostuser.protocol_features import F_PROTOCOL_FEATURES
from tests.driver import SplitQueue
from tests.frontend import PROTOCOL_F_REPLY_ACK, PROTOCOL_FEATURES, VRING_STATE, Guest
from tests.frontend import Request as Wire
from tests.unit.service_rig import until
from tests.unit.session_bench import LEGACY, MODERN, REGION, Bench
from tests.unit.test_live_traffic import Switch, frame

ELSEWHERE = REGION.user_addr + 0x80000


def elsewhere(index: int = 0) -> VringAddr:
    return VringAddr(index, 0, ELSEWHERE, ELSEWHERE + 0x8000, ELSEWHERE + 0x4000, 0)


def disable(bench: Bench, index: int = 0) -> None:
    bench.send(Request.SET_VRING_ENABLE, VringState(index, 0))


# Set up anew


def test_a_disabled_ring_that_is_given_other_addresses_stops_and_starts_there_with_its_kick(bench: Bench) -> None:
    bench.run(0)
    bench.port.next_avail[0] = 9
    disable(bench)
    assert bench.ack(Request.SET_VRING_ADDR, elsewhere()) == 0
    assert bench.port.live == {}
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert bench.port.live == {}
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].desc_user_addr == ELSEWHERE
    assert bench.port.live[0].base == 9  # nothing else was said


def test_a_new_base_of_a_disabled_ring_holds_even_if_the_ring_began_with_it(bench: Bench) -> None:
    bench.run(0, base=0)
    bench.port.next_avail[0], bench.port.avail_idx[0] = 9, 200
    disable(bench)
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 256)) == 0
    assert 0 in bench.port.live
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 0)) == 0
    assert bench.port.live == {}
    assert bench.ack(Request.SET_VRING_ADDR, bench.addresses(0)) == 0  # a freed page is often the next one given out
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].base == 0


def test_the_new_base_of_a_broken_ring_holds_also_where_its_pages_are_blank_again(bench: Bench) -> None:
    bench.run(0, base=0)
    bench.port.next_avail[0], bench.port.avail_idx[0] = 9, 0
    disable(bench)
    bench.session.rings.broke(0, "because")
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 0)) == 0
    assert bench.port.live == {}
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].base == 0


def test_another_size_stops_a_disabled_ring(bench: Bench) -> None:
    bench.run(0)
    disable(bench)
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 512)) == 0
    assert bench.port.live == {}
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].size == 512


def test_a_disabled_ring_that_gets_the_same_setup_again_goes_on(bench: Bench) -> None:
    bench.run(0, base=7)
    disable(bench)
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 256)) == 0
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 7)) == 0
    assert bench.ack(Request.SET_VRING_ADDR, bench.addresses(0, flags=1)) == 0
    assert bench.port.of("stop_queue") == []
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert bench.port.of("set_enabled")[-1] == (0, True)


def test_an_enabled_ring_moves_as_little_as_ever_and_says_why(bench: Bench) -> None:
    bench.run(0)
    assert bench.ack(Request.SET_VRING_ADDR, elsewhere()) == 1
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 1)) == 1
    assert 0 in bench.port.live
    bench.send(Request.SET_VRING_ADDR, elsewhere())
    assert "ring 0: its addresses cannot change while it runs" in bench.ended


# Left alone


def leave(bench: Bench) -> None:
    """What user-mode Linux sends when a driver goes: it disables each ring, and then asks for the features."""
    for index in (1, 0):
        disable(bench, index)
    bench.ask(Request.GET_FEATURES)


def test_rings_that_are_all_disabled_are_taken_from_the_workers_before_the_features_are_told(bench: Bench) -> None:
    for index in (0, 1):
        bench.run(index)
    disable(bench, 1)
    bench.ask(Request.GET_FEATURES)
    assert bench.port.of("stop_queue") == []  # one is in use
    leave(bench)
    assert bench.port.of("stop_queue") == [(0,), (1,)]
    assert not bench.ended


def test_a_ring_that_was_left_goes_on_where_it_was_when_it_is_enabled_again(bench: Bench) -> None:
    kick = bench.run(0)
    bench.port.next_avail[0] = 9
    leave(bench)
    bench.ask(Request.GET_FEATURES)  # as often as one likes
    assert bench.port.live == {}
    bench.share()
    assert bench.port.live == {}  # other memory does not start it
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert bench.port.live[0].base == 9
    assert bench.port.live[0].enabled
    assert bench.port.live[0].kicked
    assert kick


def test_a_ring_that_was_left_tells_where_it_stands_and_is_stopped_by_that(bench: Bench) -> None:
    bench.run(0)
    bench.port.next_avail[0] = 9
    leave(bench)
    assert VringState.decode(bench.ask(Request.GET_VRING_BASE, VringState(0, 0))).num == 9
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert bench.port.live == {}


def test_a_ring_that_was_left_is_set_up_anew_with_features_of_its_own(bench: Bench) -> None:
    bench.run(0, base=5)
    bench.port.next_avail[0] = 9
    leave(bench)
    bench.negotiate(MODERN | 1 << F_RING_PACKED)
    bench.share()
    bench.send(Request.SET_VRING_CALL, VringFd(0, False), [bench.eventfd()])
    bench.send(Request.SET_VRING_NUM, VringState(0, 128))
    bench.send(Request.SET_VRING_BASE, VringState(0, 0))
    bench.send(Request.SET_VRING_ADDR, elsewhere())
    assert bench.port.live == {}
    bench.kick_with(0, bench.eventfd())
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    settings = bench.port.live[0]
    assert (settings.size, settings.base, settings.desc_user_addr) == (128, 0, ELSEWHERE)
    assert not settings.kicked


def test_a_broken_ring_is_left_as_well_and_only_another_kick_starts_it(bench: Bench) -> None:
    bench.run(0, base=0)
    bench.port.next_avail[0] = 9
    bench.session.rings.broke(0, "because")
    leave(bench)
    assert bench.port.live == {}
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert bench.port.live == {}
    disable(bench)
    bench.send(Request.SET_VRING_BASE, VringState(0, 0))
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].base == 0


def test_rings_of_one_that_withdrew_the_protocol_features_bit_stop_when_it_asks_for_the_features(bench: Bench) -> None:
    """User-mode Linux 7.2: it cannot disable a ring."""
    bench.negotiate(MODERN)
    bench.negotiate(MODERN & ~(1 << F_PROTOCOL_FEATURES))
    bench.run(0)
    bench.ask(Request.GET_FEATURES)
    assert bench.port.live == {}
    bench.send(Request.SET_FEATURES, U64(MODERN & ~(1 << F_PROTOCOL_FEATURES)))  # which enables all
    bench.share()
    bench.send(Request.SET_VRING_NUM, VringState(0, 256))
    bench.send(Request.SET_VRING_BASE, VringState(0, 0))
    bench.send(Request.SET_VRING_ADDR, elsewhere())
    assert bench.port.live == {}
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].desc_user_addr == ELSEWHERE
    assert bench.port.live[0].enabled


def test_rings_of_one_that_has_no_protocol_features_at_all_go_on_when_it_asks(bench: Bench) -> None:
    bench.negotiate(LEGACY)
    bench.run(0)
    bench.ask(Request.GET_FEATURES)
    assert 0 in bench.port.live


# With a worker


@pytest.fixture
def switch() -> Iterator[Switch]:
    with short_dir() as directory:
        switch = Switch(directory)
        yield switch
        switch.close()


def exchange(sender: Guest, receiver: Guest) -> None:
    for number in range(20):
        sender.net.send(frame(number))
    assert [receiver.net.receive(30) for _ in range(20)] == [frame(number) for number in range(20)]


@pytest.mark.parametrize(
    "protocol_features",
    [PROTOCOL_FEATURES, PROTOCOL_FEATURES & ~PROTOCOL_F_REPLY_ACK],
    ids=["each message acknowledged", "none acknowledged"],
)
@pytest.mark.parametrize("taken_back", [False, True], ids=["", "buffers taken back first"])
def test_a_driver_goes_and_comes_again_and_nobody_touches_what_it_left(
    switch: Switch, protocol_features: int, taken_back: bool
) -> None:
    paths = switch.paths
    with (
        Guest.boot(paths[0], start=0, receive_buffers=64, protocol_features=protocol_features, timeout=30) as left,
        Guest.boot(paths[1], receive_buffers=64, timeout=30) as other,
    ):
        exchange(left, other)
        exchange(other, left)
        if taken_back:  # as Linux does between a reset, of which we hear nothing, and the end of its queues
            left.queues[1].set_avail_index((left.queues[1].base + 19) & 0xFFFF)
            until(lambda: switch.ring(0, 1)["broken"], 30)
        for index in (1, 0):
            left.frontend.tell(Wire.SET_VRING_ENABLE, VRING_STATE.pack(index, 0))
        left.frontend.ask(Wire.GET_FEATURES)

        # Freed pages, in use by somebody else. One more in an available index would be one more frame.
        areas = []
        for queue in left.queues:
            queue.set_avail_index((queue.base + 21 + queue.size // 4) & 0xFFFF)
            sizes = (16 * queue.size, 6 + 2 * queue.size, 6 + 8 * queue.size)
            places = (queue.descriptor_area, queue.driver_area, queue.device_area)
            areas += list(zip(places, sizes, strict=True))
        before = [left.memory.read(at, size) for at, size in areas]
        other.net.send(bytes(60))
        rounds = switch.worker.rounds
        until(lambda: switch.worker.rounds > rounds + 1000, 30)
        assert [left.memory.read(at, size) for at, size in areas] == before

        if taken_back:
            for queue in left.queues:
                queue.reset(0)  # the same pages again, blank
        else:
            left.queues = tuple(SplitQueue(left.memory, 256, start=0) for _ in range(2))
        left.net.receiveq, left.net.transmitq = left.queues
        left.net.receive_buffers.clear()
        for index, queue in enumerate(left.queues):
            left.frontend.set_up_queue(
                index, queue, kick=left.kicks[index], call=left.calls[index], err=left.errs[index]
            )
        left.frontend.ask(Wire.GET_FEATURES)  # frames sent before its ring is enabled are dropped
        left.net.post(64)
        left.kick()
        left.net.receive_all()  # the frame that waited, unless it was given up meanwhile
        exchange(left, other)
        assert not any(switch.ring(port, index)["broken"] for port in range(2) for index in range(2))
