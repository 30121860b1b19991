"""Policies of the ports of a switch: whose sources count, who reaches whom, and how much is sent to everybody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import conservation
from tests.probes import policies
from tests.unit.test_learn import EVERYBODY, Hub, ethernet, hub, mac

MULTICAST = b"\x01\x00\x5e\x00\x00\x01"
SECOND = 10**9


def written(address: bytes) -> str:
    return address.hex(":")


def dropped(h: Hub, port: int, direction: str = "rx") -> dict[str, int]:
    counters = h.guests[port].port.counters()
    return {k: n for k, n in (counters.rx_dropped if direction == "rx" else counters.tx_dropped).items() if n}


def send(h: Hub, port: int, *frames: bytes) -> None:
    """And until all have arrived, or were dropped. Receive buffers are posted anew."""
    for frame in frames:
        h.guests[port].driver.send(frame)
    h.settle()
    conservation.check(h.workers[0], *(guest.port for guest in h.guests))


def arrived(h: Hub) -> list[list[bytes]]:
    got = [h.arrived(i) for i in range(len(h.guests))]
    for guest in h.guests:
        guest.driver.reclaim()
    return got


def introduce(h: Hub, *ports: int) -> None:
    """Each of these says something to everybody, so that its address is learned."""
    for port in ports:
        send(h, port, ethernet(EVERYBODY, mac(port)))
    arrived(h)


# macs=: the spoof guard


def test_a_guard_drops_other_sources_whoever_they_are_for() -> None:
    with hub() as h:
        h.bridge.guard(h.guests[0].port, [written(mac(0)).upper(), written(mac(8))])
        introduce(h, 1)
        mine = [ethernet(mac(1), mac(0)), ethernet(mac(1), mac(8))]
        bad = [ethernet(mac(1), mac(9)), ethernet(EVERYBODY, mac(9)), ethernet(mac(1), mac(1))]
        bad.append(ethernet(mac(1), EVERYBODY))
        send(h, 0, mine[0], bad[0], mine[1], bad[1], bad[2], mine[0], bad[3])
        assert arrived(h) == [[], [mine[0], mine[1], mine[0]], [], []]
        assert dropped(h, 0) == {"spoofed_source": 4}
        assert h.table.find(written(mac(1))) == 1  # and nothing was learned of them
        assert h.table.find(written(mac(9))) is None


def test_a_burst_of_one_spoofed_frame_after_the_other_is_dropped_whole() -> None:
    with hub() as h:
        h.bridge.guard(h.guests[0].port, [written(mac(0))])
        send(h, 0, *[ethernet(EVERYBODY, mac(9))] * 7)
        assert arrived(h) == [[], [], [], []]
        assert dropped(h, 0) == {"spoofed_source": 7}


def test_a_guarded_address_is_learned_nowhere_else_and_its_frames_never_flood() -> None:
    with hub() as h:
        h.bridge.guard(h.guests[1].port, [written(mac(1))])
        thief = ethernet(EVERYBODY, mac(1))
        send(h, 2, thief)
        assert h.table.find(written(mac(1))) is None
        arrived(h)
        to_owner = ethernet(mac(1), mac(0))  # which has not sent yet
        send(h, 0, to_owner)
        assert arrived(h) == [[], [to_owner], [], []]


def test_a_guard_takes_effect_on_the_next_frame_and_so_does_its_end() -> None:
    with hub() as h:
        introduce(h, 1)
        frame = ethernet(mac(1), mac(0))
        send(h, 0, frame)
        h.bridge.guard(h.guests[0].port, [written(mac(8))])
        send(h, 0, frame)
        h.bridge.guard(h.guests[0].port, [written(mac(0))])
        send(h, 0, frame)
        h.bridge.guard(h.guests[0].port, [])
        send(h, 0, ethernet(mac(1), mac(9)))
        assert arrived(h) == [[], [frame, frame, ethernet(mac(1), mac(9))], [], []]
        assert h.table.reservations() == {}


def test_a_guard_that_cannot_be_leaves_everything_as_it_was() -> None:
    with hub() as h:
        h.bridge.guard(h.guests[1].port, [written(mac(1))])
        with pytest.raises(ValueError, match="reserved for port 1 already"):
            h.bridge.guard(h.guests[0].port, [written(mac(0)), written(mac(1))])
        assert h.table.reservations() == {written(mac(1)): 1}
        introduce(h, 0)
        assert dropped(h, 0) == {}


# isolate=


def test_ports_of_a_group_do_not_reach_each_other_by_unicast_nor_by_flood() -> None:
    with hub() as h:
        for port in (0, 1):
            h.bridge.isolate(h.guests[port].port, "tenants")
        h.bridge.isolate(h.guests[3].port, "others")
        for port in range(4):
            send(h, port, ethernet(EVERYBODY, mac(port)))
        got = [sorted(frame[11] for frame in frames) for frames in arrived(h)]
        assert got == [[2, 3], [2, 3], [0, 1, 3], [0, 1, 2]]
        across, up = ethernet(mac(1), mac(0)), ethernet(mac(2), mac(0))
        send(h, 0, across, up, across)
        unknown = ethernet(mac(9), mac(0))
        send(h, 0, unknown)
        assert arrived(h) == [[], [], [up, unknown], [unknown]]
        assert dropped(h, 0) == {"isolated": 2}


def test_isolation_begins_and_ends_with_the_next_frame() -> None:
    with hub() as h:
        introduce(h, 0, 1)
        frame = ethernet(mac(1), mac(0))
        send(h, 0, frame)
        for port in (0, 1):
            h.bridge.isolate(h.guests[port].port, "g")
        send(h, 0, frame, frame)
        h.bridge.isolate(h.guests[1].port, "")
        send(h, 0, frame)
        assert arrived(h)[1] == [frame, frame]
        assert dropped(h, 0) == {"isolated": 2}


def test_who_reaches_nobody_drops_what_it_floods() -> None:
    with hub(2) as h:
        for port in (0, 1):
            h.bridge.isolate(h.guests[port].port, "g")
        send(h, 0, ethernet(EVERYBODY, mac(0)))
        assert dropped(h, 0) == {"isolated": 1}


# max-macs=


def test_random_sources_do_not_evict_a_neighbours_addresses() -> None:
    with hub(addresses=1024) as h:
        h.table.set_limits(0, max_macs=1 << 20)  # even where there is no other limit
        introduce(h, 1, 2)
        for n in range(100):
            frames = [ethernet(mac(1), b"\x02" + (n * 64 + i).to_bytes(5, "big")) for i in range(64)]
            send(h, 0, *frames)
            arrived(h)
        assert h.table.counters(0)["entries"] >= 1024
        frame = ethernet(mac(2), mac(1))
        send(h, 1, frame)
        assert arrived(h) == [[], [], [frame], []]


def test_a_port_learns_as_many_addresses_as_it_may_and_goes_on_sending() -> None:
    with hub() as h:
        h.table.set_limits(0, max_macs=3)
        introduce(h, 1)
        send(h, 0, *[ethernet(mac(1), b"\x02\0\0\0\0" + bytes([i])) for i in range(8)])
        assert len(arrived(h)[1]) == 8
        assert h.table.counters(0)["entries"] == 3


# storm=


@pytest.fixture
def calm() -> Iterator[Hub]:
    policies.set_time(SECOND)
    with hub(3) as h:
        policies.use_on_bridge(h.bridge)
        yield h


def flooded(h: Hub, frames: list[bytes]) -> int:
    """How many of these reach everybody."""
    total = 0
    for i in range(0, len(frames), 50):
        send(h, 0, *frames[i : i + 50])
        got = arrived(h)
        assert got[1] == got[2]
        total += len(got[1])
    return total


def test_a_burst_of_1000_broadcasts_passes_and_then_as_many_a_second_as_were_asked_for(calm: Hub) -> None:
    calm.bridge.limit_floods(calm.guests[0].port, 200)
    many = [ethernet(EVERYBODY, mac(0))] * 1200
    assert flooded(calm, many) == 1000
    assert dropped(calm, 0) == {"storm": 200}
    assert flooded(calm, many[:50]) == 0
    policies.set_time(2 * SECOND)
    assert flooded(calm, many[:300]) == 200
    policies.set_time(2 * SECOND + 5_000_000)
    assert flooded(calm, many[:50]) == 1
    policies.set_time(100 * SECOND)
    assert flooded(calm, many) == 1000


def test_a_storm_stops_only_what_floods(calm: Hub) -> None:
    calm.bridge.limit_floods(calm.guests[0].port, 10)
    introduce(calm, 1)
    unknown, known, group = ethernet(mac(9), mac(0)), ethernet(mac(1), mac(0)), ethernet(MULTICAST, mac(0))
    assert flooded(calm, [unknown] * 1010) == 1000
    send(calm, 0, known, unknown, group, known, ethernet(EVERYBODY, mac(0)))
    assert arrived(calm) == [[], [group, known, known], [group]]
    assert dropped(calm, 0) == {"storm": 12}
    send(calm, 1, ethernet(EVERYBODY, mac(1)))  # another port has its own
    assert len(arrived(calm)[2]) == 1


def test_multicast_counts_on_request(calm: Hub) -> None:
    calm.bridge.limit_floods(calm.guests[0].port, 10, multicast=True)
    assert flooded(calm, [ethernet(MULTICAST, mac(0))] * 1005) == 1000
    calm.bridge.limit_floods(calm.guests[0].port, 10)
    assert flooded(calm, [ethernet(MULTICAST, mac(0))] * 1005) == 1005
    calm.bridge.limit_floods(calm.guests[0].port, 0)
    assert flooded(calm, [ethernet(EVERYBODY, mac(0))] * 1005) == 1005
