"""Built-in guests at 64 ports of a real fwd, all of them busy: along wires, and as an Ethernet switch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.fwd import forwarder
from bench.guest_crowd import Crowd
from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control.control_client import ask
from fastvhost.driver.settings import PairSettings

pytestmark = pytest.mark.alone

PORTS = 64
SETTINGS = PairSettings(queue_size=64, sizes=(64, 1518), huge=False)
ENOUGH = 500
"""Frames that each guest is to get: its rings go round several times."""


@contextlib.contextmanager
def crowd_at(directory: Path, pattern: str, content: str, *options: str) -> Iterator[Crowd]:
    """A guest at each of 64 ports, all of which flood."""
    sockets = [str(directory / f"{number}.sock") for number in range(PORTS)]
    with forwarder(directory, sockets, "--hold-timeout", "10s", *options):
        crowd = Crowd(sockets, SETTINGS, pattern, content)
        try:
            crowd.connect()
            crowd.start()
            yield crowd
            assert crowd.connected
        finally:
            crowd.stop()


def fewest(crowd: Crowd) -> int:
    """What the guest got that got least."""
    return min(device.received[0] for device in crowd.devices)


def test_guests_at_64_ports_flood_their_neighbours_and_every_frame_arrives_whole_at_its_own() -> None:
    with short_dir() as directory, crowd_at(directory, "pairs", "whole") as crowd:
        wait_until("each guest has its frames", MAX_WAIT, lambda: fewest(crowd) > ENOUGH)
        crowd.drain()
        guests = crowd.devices
        ways = [(guest, guests[number ^ 1]) for number, guest in enumerate(guests)]
        wait_until("all have arrived", MAX_WAIT, lambda: all(b.received[:2] == a.sent for a, b in ways))
        assert [b.received for _, b in ways] == [(*a.sent, 0, 0, 0, 0) for a, _ in ways]


def test_guests_at_64_ports_of_a_switch_send_to_all_others() -> None:
    with short_dir() as directory, crowd_at(directory, "mesh", "none", "--forward", "learn") as crowd:
        control = str(directory / "control.sock")
        wait_until("each guest has its frames", MAX_WAIT, lambda: fewest(crowd) > ENOUGH)
        wait_until("each guest has sent some", MAX_WAIT, lambda: min(sent_by(control)) > ENOUGH)
        ports = ask(control, "stats")["ports"].values()
        assert [port["learning"]["addresses"] for port in ports] == [1] * PORTS


def sent_by(control: str) -> list[int]:
    """Frames that fwd has taken from each port."""
    return [port["rx_frames"] for port in ask(control, "stats")["ports"].values()]
