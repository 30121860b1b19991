"""Policies of ports, with Linux guests under user-mode Linux: a guard, isolated tenants, a limit and a mirror."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine

COPIED = 4
"""MiB."""


class Tenants:
    """Guests a and b are tenants who do not reach each other; both reach up. What up sends and receives is mirrored."""

    def __init__(self, fwd: Fwd, guests: list[UmlGuest]) -> None:
        self.fwd = fwd
        self.a, self.b, self.up = guests

    def counters(self, port: str) -> dict[str, int]:
        return dict(self.fwd.stats()["ports"][port])


@pytest.fixture(scope="module")
def tenants() -> Iterator[Tenants]:
    with short_dir() as directory:
        machines = [UmlMachine(name, directory / f"{name}.sock", n) for n, name in enumerate(("a", "b", "up"), start=1)]
        a, b, up = machines
        ports = [
            f"{a.port},macs={a.mac},isolate=tenants",
            f"{b.port},isolate=tenants,rate=200Mbit",
            f"{up.port},mirror=look",
            "null:,name=look",
        ]
        with (
            Fwd(directory, ports) as fwd,
            UmlGuest(a, directory) as first,
            UmlGuest(b, directory) as second,
            UmlGuest(up, directory) as third,
        ):
            for guest in (first, second, third):
                guest.wait_ready(60)
            yield Tenants(fwd, [first, second, third])


def test_tenants_reach_the_uplink_and_not_each_other(tenants: Tenants) -> None:
    assert tenants.a.ping(tenants.up, 5) == 5
    assert tenants.up.ping(tenants.b, 5) == 5
    assert tenants.a.ping(tenants.b, 2, max_wait=1) == 0


def test_a_limit_loses_nothing(tenants: Tenants) -> None:
    sent, received = tenants.b.copy_to(tenants.up, COPIED)
    assert sent == received
    assert tenants.fwd.show("b")["rate"] == "200Mbit"
    assert sum(tenants.counters("b")["rx_dropped"].values()) == tenants.counters("b")["rx_dropped"]["isolated"]


def test_all_of_the_mirrored_port_is_copied(tenants: Tenants) -> None:
    tenants.up.ping(tenants.a, 5)
    up, look = tenants.counters("up"), tenants.counters("look")
    # And look has what goes to everybody: it is a port like others.
    assert look["tx_frames"] >= up["rx_frames"] + up["tx_frames"]
    assert look["tx_dropped"]["mirror_full"] == 0


def test_a_guest_that_changes_its_address_is_cut_off_until_it_has_its_own_again(tenants: Tenants) -> None:
    assert tenants.a.ping(tenants.up, 2) == 2
    before = tenants.counters("a")["rx_dropped"]["spoofed_source"]
    tenants.a.run("ip link set eth0 down; ip link set eth0 address 52:54:00:00:00:99; ip link set eth0 up")
    assert tenants.a.ping(tenants.up, 2, max_wait=1) == 0
    assert tenants.counters("a")["rx_dropped"]["spoofed_source"] > before
    tenants.a.run(f"ip link set eth0 down; ip link set eth0 address {tenants.a.machine.mac}; ip link set eth0 up")
    tenants.a.wait_answer(tenants.up, 30)
