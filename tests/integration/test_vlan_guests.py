"""VLANs of a switch between kernels: access ports of two VLANs, and a guest at a trunk with an interface in each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine

PORTS = {"a": "vlan=10", "c": "vlan=10", "b": "vlan=20", "t": "trunk=10+20"}
COPIED = 8
VLAN_INTERFACES = (
    # Those that this kernel has as modules, in the order of their needs.
    'for module in llc stp garp mrp 8021q; do insmod "$(find "$guest_modules/$(uname -r)" -name $module.ko)" 2>&1; done'
    "; ip address flush dev eth0; vconfig add eth0 10 && vconfig add eth0 20"
    " && ip address add {address}/24 dev eth0.10 && ip address add 10.0.20.4/24 dev eth0.20"
    " && ip link set eth0.10 up && ip link set eth0.20 up"
)


class Network(NamedTuple):
    fwd: Fwd
    a: UmlGuest
    c: UmlGuest
    b: UmlGuest
    t: UmlGuest


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with short_dir() as directory, ExitStack() as stack:
        machines = [
            UmlMachine(name, directory / f"{name}.sock", number, 1, "RING_PACKED" if name == "a" else "")
            for number, name in enumerate(PORTS, start=1)
        ]
        fwd = stack.enter_context(Fwd(directory, [f"{machine.port},{PORTS[machine.name]}" for machine in machines]))
        guests = [stack.enter_context(UmlGuest(machine, directory)) for machine in machines]
        for guest in guests:
            guest.wait_ready(60)
        network = Network(fwd, *guests)
        network.t.run(VLAN_INTERFACES.format(address=network.t.address), 60)
        network.b.run("ip address add 10.0.20.3/24 dev eth0", 30)
        yield network


def answered(guest: UmlGuest, address: str, count: int) -> int:
    answers = re.search(r"(\d+) packets received", guest.run(f"ping -q -c {count} -i 0.1 -W 1 {address}; true", 60))
    assert answers
    return int(answers[1])


def test_guests_of_a_vlan_reach_each_other_and_its_interface_at_the_trunk(network: Network) -> None:
    assert network.a.ping(network.c, 10) == 10
    assert network.a.ping(network.t, 10) == 10
    assert network.t.ping(network.c, 5, bytes=8000) == 5
    assert network.b.ping(network.t, 1, max_wait=1) == 0  # the interface in the other VLAN
    assert answered(network.b, "10.0.20.4", 10) == 10


def test_guests_of_two_vlans_do_not_reach_each_other(network: Network) -> None:
    assert answered(network.a, network.b.address, 2) == 0
    assert answered(network.b, network.c.address, 2) == 0


def test_super_frames_get_a_tag_and_lose_it(network: Network) -> None:
    def tx_frames(port: str) -> int:
        return int(network.fwd.stats()["ports"][port]["tx_frames"])

    before = tx_frames("b")
    for sender, receiver in ((network.a, network.t), (network.t, network.c)):
        sent, received = sender.copy_to(receiver, COPIED)
        assert sent == received
    assert tx_frames("b") - before < 10  # what the trunk's guest says in the other VLAN now and then


def test_the_switch_has_nothing_to_complain_of(network: Network) -> None:
    assert network.fwd.warnings() == []
    assert network.fwd.show("t")["trunk"] == "10+20"
