"""Policies of ports that have VLANs, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.probes import policies
from tests.unit.rig import F_VERSION_1, NET_F_MRG_RXBUF
from tests.unit.vlan_hub import EVERYBODY, VlanHub, access, ethernet, mac, tag, trunk, vlan_hub

A, B, C, UP = range(4)


@pytest.fixture
def switch() -> Iterator[VlanHub]:
    """Two ports in VLAN 10, one in 20, and a trunk."""
    ports = access(10), access(10), access(20), trunk(10, 20)
    policies.set_time(10**9)
    with vlan_hub(*ports, features=F_VERSION_1 | NET_F_MRG_RXBUF) as hub:
        policies.use_on_bridge(hub.bridge)
        yield hub


def test_isolated_ports_of_a_vlan_reach_its_trunk_and_not_each_other(switch: VlanHub) -> None:
    for port in (A, B):
        switch.bridge.isolate(switch.ports[port], "g")
    assert switch.send(A, ethernet(EVERYBODY, mac(A))) == {UP: ethernet(EVERYBODY, mac(A), tag(10))}
    assert switch.send(B, ethernet(mac(A), mac(B))) == {}
    assert switch.send(UP, ethernet(EVERYBODY, mac(9), tag(10))).keys() == {A, B}
    assert switch.dropped(B) == {"isolated": 1}


def test_a_guard_holds_in_every_vlan(switch: VlanHub) -> None:
    switch.bridge.guard(switch.ports[UP], [mac(9).hex(":")])
    for vlan, others in ((10, {A, B}), (20, {C})):
        assert switch.send(UP, ethernet(EVERYBODY, mac(9), tag(vlan))).keys() == others
        assert switch.send(UP, ethernet(EVERYBODY, mac(8), tag(vlan))) == {}
    assert switch.send(A, ethernet(mac(9), mac(A))).keys() == {UP}
    assert switch.send(A, ethernet(EVERYBODY, mac(9))).keys() == {B, UP}
    assert switch.send(B, ethernet(mac(9), mac(B))).keys() == {UP}  # it was not learned at A


def test_floods_of_all_vlans_count_together(switch: VlanHub) -> None:
    switch.bridge.limit_floods(switch.ports[UP], 10)
    frames = [ethernet(EVERYBODY, mac(9), tag(10 + 10 * (n % 2))) for n in range(40)]
    arrived = 0
    for _ in range(26):
        switch.guests[UP].driver.send_at_once(*frames)
        switch.settle()
        arrived += len(switch.arrived(B)) + len(switch.arrived(C))
        switch.arrived(A)
        switch.guests[UP].driver.reclaim()
    assert arrived == 1000
    assert switch.dropped(UP) == {"storm": 40}


@pytest.mark.parametrize("n", [1, 30], ids=["one", "many"])
def test_a_mirror_gets_frames_as_they_were_sent_and_as_they_were_delivered(switch: VlanHub, n: int) -> None:
    switch.send(UP, ethernet(EVERYBODY, mac(9), tag(10)))
    switch.bridge.mirror(switch.ports[A], switch.ports[C])
    sent = [ethernet(mac(9), mac(A), payload=bytes([i]) * 46) for i in range(n)]
    switch.guests[A].driver.send_at_once(*sent)
    switch.settle()
    assert switch.arrived(C) == sent  # without a tag, though they leave with one
    assert switch.arrived(UP) == [frame[:12] + tag(10) + frame[12:] for frame in sent]
    back = [ethernet(mac(A), mac(9), tag(10), payload=bytes([i]) * 46) for i in range(n)]
    switch.guests[UP].driver.send_at_once(*back)
    switch.settle()
    assert switch.arrived(C) == switch.arrived(A) == [frame[:12] + frame[16:] for frame in back]
