"""Options of a tap: queues for each processor of a guest, owner, MTU, persist."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.qemu import Guest, Machine
from bench.guests.waits import MAX_WAIT, wait_until
from tests.integration.namespace import Namespace

HOST = "10.0.0.254"
QUEUES = 2
MIB = 1 << 20
NOBODY = 65534
# Offloads that the stack may leave to the tap: SIOCETHTOOL with ETHTOOL_GTXCSUM and GTSO (linux/ethtool.h).
OFFLOADS = """
import array, fcntl, socket, struct
with socket.socket() as asked:
    for command in (0x16, 0x1e):
        value = array.array("I", [command, 7])
        fcntl.ioctl(asked, 0x8946, struct.pack("16sP16x", b"t0", value.buffer_info()[0]))
        print(value[1])
"""
# An earlier user without offloads: TUNSETIFF with a virtio-net header, TUNSETOFFLOAD with none.
USER_BEFORE = """
import fcntl, os, struct
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"t0", 0x5002))
fcntl.ioctl(tap, 0x400454d0, 0)
"""
WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-net_raw,-net_admin", "--inh-caps", "-all")


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


def made(place: Path, space: Namespace, options: str) -> None:
    """A tap that a fwd made, which has ended since."""
    with Fwd(place, [f"tap:t0,{options}", "null:"], prefix=space.prefix) as fwd:
        fwd.wait_log("port t0: made tap t0")
        wait_until("fwd answers", MAX_WAIT, fwd.control.exists)
        assert fwd.stop() == 0


def test_a_tap_has_the_owner_and_the_mtu_asked_for_all_offloads_and_outlives_fwd(place: Path, space: Namespace) -> None:
    made(place, space, "persist=yes,owner=nobody,mtu=2000")
    assert space.run("cat /sys/class/net/t0/owner /sys/class/net/t0/mtu").split() == [str(NOBODY), "2000"]
    space.run(f"{sys.executable} -c '{USER_BEFORE}'")
    assert space.run(f"{sys.executable} -c '{OFFLOADS}'").split() == ["0", "0"]
    with Fwd(place, ["tap:t0", "null:"], prefix=space.prefix) as fwd:
        fwd.wait_log("port t0: attached to tap t0, MTU 2000")
        assert space.run(f"{sys.executable} -c '{OFFLOADS}'").split() == ["1", "1"]


def test_the_owner_of_a_tap_needs_no_rights_and_nobody_else_gets_it(place: Path, space: Namespace) -> None:
    made(place, space, "persist=yes")  # the user of fwd owns it
    prefix = [*space.prefix, *WITHOUT_RIGHTS]
    with Fwd(place, ["tap:t0", "null:"], prefix=prefix) as fwd:
        fwd.wait_log("port t0: attached to tap t0, MTU 1500")
        wait_until("fwd answers", MAX_WAIT, fwd.control.exists)
        before = fwd.stats()["ports"]["t0"]["rx_frames"]
        space.run("ip address add 10.3.0.1/24 dev t0; busybox ping -q -c 1 -W 1 10.3.0.2 || true")
        assert fwd.stats()["ports"]["t0"]["rx_frames"] > before
    space.run("ip link delete t0")
    made(place, space, "persist=yes,owner=nobody")
    with Fwd(place, ["tap:t0", "null:"], prefix=prefix) as fwd:
        wait_until("fwd ends", MAX_WAIT, lambda: fwd.popen.poll() is not None)
        assert fwd.popen.returncode == 1
        assert "tap t0: not permitted (CAP_NET_ADMIN); run as root, or let root make it for you: ip tuntap" in fwd.log()


def test_a_tap_of_one_queue_is_refused_for_two_queues(place: Path, space: Namespace) -> None:
    made(place, space, "persist=yes")
    with Fwd(place, [f"tap:t0,queues={QUEUES}", "null:"], prefix=space.prefix) as fwd:
        wait_until("fwd ends", MAX_WAIT, lambda: fwd.popen.poll() is not None)
        assert "tap t0: it exists and is no tap interface of this many queues" in fwd.log()


@dataclass
class Scene:
    """A guest of two processors on port a, the stack of a namespace on the tap t0 of as many queues."""

    space: Namespace
    fwd: Fwd
    guest: Guest

    def frames(self, parity: int) -> list[int]:
        """Frames of each of the guest's receiveqs (0) or transmitqs (1)."""
        return [ring["frames"] for ring in self.fwd.show("a")["rings"] if ring["index"] % 2 == parity]


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    machine = Machine("a", place / "a.sock", 1, queue_pairs=QUEUES)
    with (
        Namespace() as space,
        Fwd(place, [machine.port, f"tap:t0,queues={QUEUES}"], prefix=space.prefix) as fwd,
        Guest(machine, place) as guest,
    ):
        fwd.wait_log("port t0: made tap t0, 2 queues, MTU 1500")
        space.run(f"ip address add {HOST}/24 dev t0")
        guest.wait_ready()
        guest.run("ip link set eth0 mtu 1500")
        yield Scene(space, fwd, guest)


def test_each_processor_of_the_guest_sends_to_the_stack_through_a_queue_of_its_own(scene: Scene) -> None:
    before = scene.frames(1)
    for processor in (1, 2):
        assert " 30 packets received" in scene.guest.run(f"taskset {processor} ping -A -q -c 30 {HOST}")
    assert all(now >= then + 30 for then, now in zip(before, scene.frames(1), strict=True))


# A flow stays on one queue; a hundred flows do not all use the same one.
FLOWS = """
import socket
for _ in range(100):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
        for _ in range(3):
            flow.sendto(b"frame", ("10.0.0.1", 9))
"""


def test_flows_of_the_stack_reach_the_guest_through_all_queues(scene: Scene) -> None:
    before = scene.frames(0)
    scene.space.run(f"{sys.executable} -c '{FLOWS}'")

    def arrived() -> list[int]:
        return [now - then for then, now in zip(before, scene.frames(0), strict=True)]

    wait_until("all of them arrive", MAX_WAIT, lambda: sum(arrived()) >= 300)
    assert min(arrived()) >= 30


def test_tcp_of_the_stack_arrives_with_segments_cut_and_checksums_complete(scene: Scene) -> None:
    file = f"/tmp/{scene.space.name}"
    sent = scene.space.run(f"head -c {4 * MIB} /dev/urandom > {file}; sha256sum < {file}")
    scene.guest.take_a_copy()
    answer = scene.space.run(f"busybox nc 10.0.0.1 5000 < {file}; rm {file}", 60)
    assert answer.split()[0] == sent.split()[0]
    assert not any(scene.fwd.stats()["ports"]["t0"]["rx_dropped"].values())
