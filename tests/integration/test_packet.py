"""A QEMU guest and a network namespace, with fwd and a packet socket on a veth between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.qemu import Guest, Machine
from tests.integration.namespace import Namespace
from tests.integration.receiver import TAG, TAGGED, received, sending
from tests.unit.test_segmentation import check_datagram

HOST = "10.0.0.254"
MIB = 1 << 20


@dataclass
class Scene:
    """A guest on port a; port v0 is one end of a veth, whose other end is in a namespace with its own stack."""

    near: Namespace
    far: Namespace
    fwd: Fwd
    guest: Guest

    def connect(self) -> None:
        """A new veth between the two namespaces."""
        self.near.run(f"ip link add v0 type veth peer name v1 netns {self.far.name}; ip link set v0 up")
        self.far.run(f"ip address add {HOST}/24 dev v1; ip link set v1 up")

    def ping(self, count: int = 20, address: str = "10.0.0.1") -> int:
        """How many pings from the far namespace the guest answered."""
        words = self.far.run(f"busybox ping -q -A -c {count} -W 10 {address} || true", 120)
        found = re.search(r"(\d+) packets received", words)
        assert found, words
        return int(found[1])


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    machine = Machine("a", place / "a.sock", 1)
    with Namespace() as near, Namespace() as far, Fwd(place, [machine.port, "packet:v0"], prefix=near.prefix) as fwd:
        fwd.wait_log("port v0: there is no interface v0; waiting for it")
        with Guest(machine, place) as guest:
            scene = Scene(near, far, fwd, guest)
            scene.connect()
            fwd.wait_log("port v0: packet socket on v0, MTU 1500")
            guest.wait_ready()
            guest.run("ip link set eth0 mtu 1500")
            yield scene


def test_the_guest_and_the_namespace_ping_each_other(scene: Scene) -> None:
    assert scene.ping(50) == 50
    assert " 20 packets received" in scene.guest.run(f"ping -A -q -c 20 {HOST}")
    scene.fwd.wait_log("port v0: first packet from v0")


def test_tcp_passes_both_ways_though_the_stack_leaves_checksums_and_segments_to_the_card(scene: Scene) -> None:
    # To the guest: super-frames of the far stack, whole, or cut where it takes none.
    data = scene.far.run(f"head -c {8 * MIB} /dev/urandom > /tmp/{scene.far.name}; sha256sum < /tmp/{scene.far.name}")
    scene.guest.take_a_copy()
    answer = scene.far.run(f"busybox nc 10.0.0.1 5000 < /tmp/{scene.far.name}; rm /tmp/{scene.far.name}", 60)
    assert answer.split()[0] == data.split()[0]
    # And back: the listener's answer to the end of the data is their checksum.
    scene.guest.run("dd if=/dev/urandom of=/tmp/out bs=1M count=4 2>/dev/null", 60)
    with scene.far.listening(5000, 60):
        received = scene.guest.run(f"nc {HOST} 5000 < /tmp/out", 60)
    assert received.split()[0] == scene.guest.run("sha256sum < /tmp/out").split()[0]
    counters = scene.fwd.stats()["ports"]["v0"]
    assert counters["rx_dropped"]["gso_unsupported"] == 0
    assert counters["rx_bytes"] > 8 * MIB


def test_a_vlan_tag_that_the_kernel_takes_out_is_put_back(place: Path) -> None:
    with Namespace() as space:
        space.run("ip link add w0 type veth peer name w1; ip link set w0 up; ip link set w1 up")
        tags = (TAG, "88a80a2a", f"{TAG}8100002b", "")
        sent = [TAGGED.replace(bytes.fromhex(TAG), bytes.fromhex(tag)) for tag in tags]
        assert received(space, place, "packet:w0", 4, sending("w1", sent)) == sent


DATAGRAMS = 40
DATAGRAM_SENDER = f"""
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.IPPROTO_UDP, 103, 700)  # UDP_SEGMENT
out.sendto(b"".join(bytes([n]) * 700 for n in range({DATAGRAMS}))[:-300], ("10.9.0.2", 7))
"""


def test_datagrams_that_a_socket_sends_in_one_call_arrive_as_frames_of_their_own(place: Path) -> None:
    with Namespace() as space:
        space.run("ip link add w0 type veth peer name w1; ip link set w0 up; ip link set w1 up")
        space.run("ip address add 10.9.0.1/24 dev w1; ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev w1")
        payloads = list(map(check_datagram, received(space, place, "packet:w0", DATAGRAMS, DATAGRAM_SENDER)))
    assert payloads == [bytes([n]) * (700 if n < DATAGRAMS - 1 else 400) for n in range(DATAGRAMS)]


def test_a_veth_that_is_removed_and_made_again_is_taken_up_again(scene: Scene) -> None:
    for _ in range(2):
        mark = len(scene.fwd.log())
        scene.near.run("ip link delete v0")
        scene.fwd.wait_log("port v0: v0 was removed; waiting for it to come back", after=mark)
        dropped = scene.fwd.stats()["ports"]["v0"]["tx_dropped"]["link_down"]
        scene.guest.run(f"ip neigh flush dev eth0; ping -q -c 1 -W 1 {HOST}; true")
        assert scene.fwd.stats()["ports"]["v0"]["tx_dropped"]["link_down"] > dropped
        scene.connect()
        scene.fwd.wait_log("port v0: packet socket on v0", after=mark)
        assert scene.ping() == 20


def test_a_veth_whose_other_end_is_down_drops_as_link_down_and_comes_back_with_it(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    scene.far.run("ip link set v1 down")
    scene.fwd.wait_log("port v0: v0 has no carrier; bring up its other end, or plug it in", after=mark)
    before = scene.fwd.stats()["ports"]["v0"]["tx_dropped"]
    scene.guest.run(f"ip neigh flush dev eth0; ping -q -c 1 -W 1 {HOST}; true")
    after = scene.fwd.stats()["ports"]["v0"]["tx_dropped"]
    assert after["link_down"] > before["link_down"]
    assert after["no_receive_buffers"] == before["no_receive_buffers"]
    scene.far.run("ip link set v1 up")
    scene.fwd.wait_log("port v0: v0 is up", after=mark)
    assert scene.ping() == 20


def test_a_flood_beyond_what_the_guest_takes_stops_nobody(scene: Scene) -> None:
    scene.far.run("timeout 2 busybox ping -f -s 1000 10.0.0.1 > /dev/null 2>&1 || true")
    assert scene.ping() == 20
    assert scene.fwd.popen.poll() is None
