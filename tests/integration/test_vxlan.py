"""TCP inside VXLAN: a host's overlay network whose frames go through fwd, or begin in a guest behind it.

What a stack leaves to a card is twice in such frames: a checksum, or a super-frame, inside a datagram of UDP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests import traffic
from bench.guests.fwd import Fwd
from bench.guests.uml import UmlGuest, UmlMachine
from tests.integration.namespace import Namespace

BYTES = 8_000_003
"""At the pace of one segment for each timeout, which is how it fails, these take an hour."""
MAX_WAIT = 60


@pytest.fixture
def spaces(place: Path) -> Iterator[tuple[Namespace, Namespace]]:
    traffic.build("traffic", place)
    with Namespace() as left, Namespace() as right:
        yield left, right


def overlay(space: Namespace, n: int, device: str) -> None:
    """vx0 of one end, over a device that is there."""
    space.run(
        f"ip link set {device} up; ip address add 10.9.0.{n}/24 dev {device}; "
        f"ip link add vx0 type vxlan id 7 remote 10.9.0.{3 - n} dstport 4789 dev {device}; ip link set vx0 up"
    )


def send(place: Path, sender: Namespace, receiver: Namespace, address: str) -> None:
    """A stream through the overlay, whole and unchanged."""
    receiver.run(f"{place}/traffic receive tcp {traffic.PORT}")
    said = sender.run(f"timeout -s KILL {MAX_WAIT} {place}/traffic send tcp {address} {traffic.PORT} {BYTES}", 90)
    sent, received = (line.split()[1:] for line in said.splitlines())
    assert sent == received
    assert int(sent[0]) == BYTES


@pytest.mark.parametrize("kind", ["tap", "packet"])
def test_tcp_in_vxlan_over_an_interface_of_fwd_does_not_crawl(
    place: Path, spaces: tuple[Namespace, Namespace], kind: str
) -> None:
    interface = "u0" if kind == "tap" else "u1"
    if kind == "packet":
        for space in spaces:
            space.run("ip link add u0 type veth peer name u1; ip link set u0 up; ip link set u1 up")
    ports = [f"{kind}:{interface},name=p{n},netns={space.name}" for n, space in enumerate(spaces, start=1)]
    with Fwd(place, ports) as fwd:
        for n, space in enumerate(spaces, start=1):
            fwd.wait_log(f"port p{n}: (made tap|packet socket on)")
            overlay(space, n, "u0")
            space.run(f"ip address add 10.8.0.{n}/24 dev vx0")
        left, right = spaces
        send(place, left, right, "10.8.0.2")
        send(place, right, left, "10.8.0.1")
        assert fwd.warnings() == []


def test_super_frames_of_a_guest_go_whole_to_a_bridge_and_are_cut_by_its_vxlan(
    place: Path, spaces: tuple[Namespace, Namespace]
) -> None:
    left, right = spaces
    machine = UmlMachine("a", place / "a.sock", 1)
    with contextlib.ExitStack() as stack:
        fwd = stack.enter_context(Fwd(place, [machine.port, f"tap:t0,netns={left.name}"]))
        fwd.wait_log("port t0: made tap")
        left.run(f"ip link add u0 type veth peer name u0 netns {right.name}")
        for n, space in enumerate(spaces, start=1):
            overlay(space, n, "u0")
        left.run("ip link add br0 type bridge; ip link set br0 up; ip link set t0 up")
        left.run("ip link set t0 master br0; ip link set vx0 master br0")
        right.run("ip address add 10.0.0.2/24 dev vx0")
        guest = stack.enter_context(UmlGuest(machine, place)).wait_ready(60)
        guest.run("ip link set eth0 mtu 1450")  # what VXLAN leaves of 1500

        before = fwd.stats()["ports"]["a"]
        right.run(f"{place}/traffic receive tcp {traffic.PORT}")
        said = guest.run(f"/run/shared/traffic send tcp 10.0.0.2 {traffic.PORT} {BYTES}", MAX_WAIT)
        sent, received = (line.split()[1:] for line in said.splitlines())
        assert sent == received
        after = fwd.stats()["ports"]["a"]
        frames, bytes = (after[key] - before[key] for key in ("rx_frames", "rx_bytes"))
        assert bytes / frames > 3000  # whole, as far as fwd is concerned

        guest.run(f"/run/shared/traffic receive tcp {traffic.PORT}")
        said = right.run(f"timeout -s KILL {MAX_WAIT} {place}/traffic send tcp 10.0.0.1 {traffic.PORT} {BYTES}", 90)
        sent, received = (line.split()[1:] for line in said.splitlines())
        assert sent == received
        assert fwd.warnings() == []
