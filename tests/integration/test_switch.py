"""An Ethernet switch between three guests under user-mode Linux: all pairs talk, and a frame goes where it belongs."""

from __future__ import annotations

import contextlib
import itertools
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


def test_a_switch_has_nothing_to_complain_of(switch: UmlSwitch) -> None:
    assert switch.fwd.warnings() == []
