"""Two guests under user-mode Linux 7.2, which is a front-end itself: newer than QEMU's guests, and at native speed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine
from bench.guests.waits import wait_until

MIB = 1 << 20
COPIED = 8 * MIB
SLOW_CALLS = "its call descriptors take more than 20 us to signal"
"""A call is a signal to the process that is the guest: on a busy machine fwd may say this of it."""


class UmlPair:
    """fwd and two guests whose ports withhold the same features. machines: what each guest is made of."""

    def __init__(self, directory: Path, without: str) -> None:
        self.machines = [
            UmlMachine(name, directory / f"{name}.sock", number, without=without)
            for number, name in enumerate("ab", start=1)
        ]
        with contextlib.ExitStack() as stack:
            self.fwd = stack.enter_context(Fwd(directory, [machine.port for machine in self.machines]))
            self.a, self.b = (stack.enter_context(UmlGuest(machine, directory)) for machine in self.machines)
            for guest in (self.a, self.b):
                guest.wait_ready(60)
            self._stack = stack.pop_all()

    def rx_frames(self, port: str) -> int:
        return int(self.fwd.stats()["ports"][port]["rx_frames"])

    def warnings(self) -> list[str]:
        return [line for line in self.fwd.warnings() if SLOW_CALLS not in line]

    def __enter__(self) -> UmlPair:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)


@pytest.fixture(scope="module", params=["RING_PACKED", ""], ids=["split", "packed"])
def pair(request: pytest.FixtureRequest) -> Iterator[UmlPair]:
    with short_dir() as directory, UmlPair(directory, request.param) as pair:
        yield pair


def test_a_hundred_of_a_hundred_pings_are_answered(pair: UmlPair) -> None:
    assert pair.a.ping(pair.b, 100) == 100
    assert pair.b.ping(pair.a, 100) == 100


def test_frames_larger_than_a_receive_buffer_arrive_whole(pair: UmlPair) -> None:
    before = pair.rx_frames("a")
    assert pair.a.ping(pair.b, 20, bytes=8000) == 20
    assert pair.b.ping(pair.a, 20, bytes=8000) == 20
    # One frame each, not fragments: the guests' MTU is 9000.
    assert 40 <= pair.rx_frames("a") - before < 50


@pytest.mark.parametrize("sender_is_a", [True, False], ids=["a to b", "b to a"])
def test_a_copy_by_tcp_arrives_unchanged(pair: UmlPair, sender_is_a: bool) -> None:
    sender, receiver = (pair.a, pair.b) if sender_is_a else (pair.b, pair.a)
    sent, received = sender.copy_to(receiver, COPIED // MIB)
    assert sent == received
    assert pair.fwd.stats()["ports"][sender.name]["rx_bytes"] > COPIED


def test_the_rings_are_in_order_and_as_the_port_offers_them(pair: UmlPair) -> None:
    withheld = pair.machines[0].without
    for name in ("a", "b"):
        shown = pair.fwd.show(name)
        assert {"IN_ORDER", "MRG_RXBUF", "EVENT_IDX", "INDIRECT_DESC", "VERSION_1"} <= set(shown["features"])
        assert ("RING_PACKED" in shown["features"]) == (withheld != "RING_PACKED")
        assert not any(ring["broken"] for ring in shown["rings"])
    assert pair.warnings() == []


def test_a_guest_that_powers_off_ends_well_and_comes_again(pair: UmlPair) -> None:
    assert pair.a.power_off() == 0
    wait_until("port a is down", 5, lambda: pair.fwd.stats()["ports"]["a"]["link"] == "down")
    with UmlGuest(pair.machines[0], pair.fwd.directory) as again:
        again.wait_ready(60)
        assert again.ping(pair.b, 20) == 20
    assert pair.warnings() == []
