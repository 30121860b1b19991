"""A guest that takes its receive offloads back gets frames that need them nevertheless: its QEMU keeps that to itself.

Linux does so for an XDP program, by a command of the control queue (VIRTIO_NET_CTRL_GUEST_OFFLOADS), and then looks at
no header any more. The remedy is a port that never offered them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.guests import traffic
from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.qemu import Guest, Machine
from bench.guests.uml import UmlGuest
from tests.integration.offload_matrix import ManyCards

WITHOUT = "GUEST_CSUM"
"""What the documents say. It takes GUEST_TSO4 and all others with it that stand on it."""
MTU = 1500
BYTES = 500_000


@dataclass
class Scene:
    """A sender with two cards; behind the first a guest with all offloads, behind the second one without."""

    fwd: Fwd
    sender: UmlGuest
    receivers: dict[str, Guest]

    def send(self, name: str, address: str) -> bool:
        """Whether a stream arrives there as it was sent."""
        self.receivers[name].run(f"traffic receive tcp {traffic.PORT}")
        command = f"/run/shared/traffic send tcp {address} {traffic.PORT} {BYTES}"
        sent, received = (line.split()[1:] for line in self.sender.run(command, 60).splitlines())
        return sent == received

    def bytes_a_frame(self, before: dict[str, int], port: str) -> float:
        now = self.fwd.stats()["ports"][port]
        frames = now["tx_frames"] - before["tx_frames"]
        return (now["tx_bytes"] - before["tx_bytes"]) / frames if frames else 0.0


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    traffic.build("traffic", place)
    b, c = (Machine(name, place / f"{name}.sock", number) for number, name in ((2, "b"), (3, "c")))
    a = ManyCards("a", place / "a0.sock", 1, beside=(place / "a1.sock",))
    ports = [str(place / "a0.sock"), b.port, str(place / "a1.sock"), f"{c.port},without={WITHOUT}"]
    with contextlib.ExitStack() as stack:
        fwd = stack.enter_context(Fwd(place, ports, IN_PAIRS))
        receivers = {machine.name: stack.enter_context(Guest(machine, place)) for machine in (b, c)}
        sender = stack.enter_context(UmlGuest(a, place)).wait_ready(60)
        for guest in receivers.values():
            guest.wait_ready().run(f"ip link set eth0 mtu {MTU}")  # with longer ones Linux takes no XDP
        receivers["c"].run("ip address add 10.1.0.3/24 dev eth0")
        sender.run(f"ip link set eth0 mtu {MTU}; ip link set eth1 up && ip address add 10.1.0.1/24 dev eth1")
        yield Scene(fwd, sender, receivers)


def load_xdp(guest: Guest) -> None:
    guest.run("xdp eth0 native")


def test_a_guest_that_loads_xdp_gets_frames_whose_checksum_is_left_out_and_takes_none_of_tcp(scene: Scene) -> None:
    guest = scene.receivers["b"]
    before = scene.fwd.stats()["ports"]["b"]
    assert scene.send("b", "10.0.0.2")
    assert scene.bytes_a_frame(before, "b") > MTU + 14
    load_xdp(guest)
    assert scene.sender.ping(guest, 5) == 5  # sums of its own
    guest.run(f"traffic receive tcp {traffic.PORT}")
    said = scene.sender.run(f"timeout 4 /run/shared/traffic send tcp 10.0.0.2 {traffic.PORT} {BYTES} 2>&1; true")
    assert "received" not in said
    names, counts = (line.split() for line in guest.run("grep ^Tcp: /proc/net/snmp").splitlines())
    assert int(dict(zip(names, counts, strict=True))["InCsumErrors"]) > 0
    # Without the program all is as it was.
    guest.run("killall xdp traffic; true")
    assert scene.send("b", "10.0.0.2")


def test_a_guest_whose_port_withholds_guest_csum_may_load_xdp(scene: Scene) -> None:
    load_xdp(scene.receivers["c"])
    before = scene.fwd.stats()["ports"]["c"]
    assert scene.send("c", "10.1.0.3")
    assert scene.bytes_a_frame(before, "c") <= MTU + 14
    after = scene.fwd.stats()["ports"]["c"]
    assert after["cut"] > before["cut"]
    assert not {"GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6"} & set(scene.fwd.show("c")["features"])
