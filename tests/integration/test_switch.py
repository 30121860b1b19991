"""An Ethernet switch between three guests under user-mode Linux: all pairs talk, and a frame goes where it belongs."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine

MIB = 1 << 20
COPIED = 8


class UmlSwitch:
    """fwd, which learns, and three guests."""

    def __init__(self, directory: Path, without: str) -> None:
        machines = [
            UmlMachine(name, directory / f"{name}.sock", number, 1, without)
            for number, name in enumerate("abc", start=1)
        ]
        with contextlib.ExitStack() as stack:
            self.fwd = stack.enter_context(Fwd(directory, [machine.port for machine in machines]))
            self.guests = [stack.enter_context(UmlGuest(machine, directory)) for machine in machines]
            for guest in self.guests:
                guest.wait_ready(60)
            self._stack = stack.pop_all()

    def tx_frames(self, port: str) -> int:
        return int(self.fwd.stats()["ports"][port]["tx_frames"])

    def __enter__(self) -> UmlSwitch:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)


@pytest.fixture(scope="module", params=["RING_PACKED", ""], ids=["split", "packed"])
def switch(request: pytest.FixtureRequest) -> Iterator[UmlSwitch]:
    with short_dir() as directory, UmlSwitch(directory, request.param) as switch:
        yield switch


def test_all_pairs_ping(switch: UmlSwitch) -> None:
    for one, other in itertools.permutations(switch.guests, 2):
        assert one.ping(other, 20) == 20
        assert one.ping(other, 5, bytes=8000) == 5


def test_what_two_guests_say_to_each_other_the_third_does_not_get(switch: UmlSwitch) -> None:
    a, b, c = switch.guests
    assert a.ping(b, 10) == 10
    before = switch.tx_frames(c.name)
    sent, received = a.copy_to(b, COPIED)
    assert sent == received
    # Now and then a guest asks for an address (ARP): everybody gets that.
    assert switch.tx_frames(c.name) - before < 10


def table_of(switch: UmlSwitch) -> dict[str, str]:
    """Ports by the addresses last seen there."""
    rows = map(json.loads, switch.fwd.ask("mac", "show", "--json").splitlines())
    return {row["address"]: row["port"] for row in rows}


def test_the_table_of_a_running_switch_is_listed_flushed_and_learned_anew(switch: UmlSwitch) -> None:
    a, b, _ = switch.guests
    assert a.ping(b, 5) == 5
    ours = {guest.machine.mac: guest.name for guest in (a, b)}
    assert ours.items() <= table_of(switch).items()
    assert "forgotten" in switch.fwd.ask("mac", "flush", "--port", b.name)
    assert a.ping(b, 5) == 5
    assert table_of(switch)[b.machine.mac] == b.name


def test_an_address_moves_to_another_guest_and_the_next_frames_go_there(switch: UmlSwitch) -> None:
    a, b, c = switch.guests
    its = b.machine.mac
    assert a.ping(b, 5) == 5
    moved = switch.fwd.stats()["ports"][c.name]["learning"]["moved"]
    b.run(f"ip address del {b.address}/24 dev eth0; ip link set eth0 address 52:54:00:00:00:b2")
    c.run(f"ip link set eth0 address {its}; ip address add {b.address}/24 dev eth0")
    try:
        assert c.ping(a, 1) == 1  # the first frames with its address
        assert table_of(switch)[its] == c.name
        assert switch.fwd.stats()["ports"][c.name]["learning"]["moved"] > moved
        before = switch.tx_frames(b.name)
        assert a.ping(b, 20) == 20  # c answers: it has the IP address, too
        assert switch.tx_frames(b.name) - before < 10
    finally:
        c.run(f"ip address del {b.address}/24 dev eth0; ip link set eth0 address {c.machine.mac}")
        b.run(f"ip link set eth0 address {its}; ip address add {b.address}/24 dev eth0")
        for guest in switch.guests:
            guest.run("ip neigh flush dev eth0")
    assert a.ping(b, 5) == 5
    assert a.ping(c, 5) == 5


def test_a_switch_has_nothing_to_complain_of(switch: UmlSwitch) -> None:
    assert switch.fwd.warnings() == []
