"""A guest on a device file like vhost-net's, and one on a socket: they communicate, one is killed and started again.

Beside them, on the same worker, a pair of sockets for an attacker.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench import conservation
from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.qemu import Machine
from bench.guests.short_dir import short_dir
from bench.guests.snapshot import WokenGuest
from fastvhost.vhostcuse.ioctls import IoctlNumber
from tests.driver import Memory, Piece, Region
from tests.frontend import U64, VRING_STATE, Frontend, Guest, Request

MAX_WAIT = 150
SLOW = 20
"""Seconds for an answer."""
COPIED_MIB = 1
PAIRS = 2
"""Queue pairs of the ports; most guests here use fewer."""
ATTACKED = "xy"
"""Ports that are wired to each other and have only an attacker."""
ROUNDS, FAR = 20, 1 << 30


@dataclass
class Scene:
    """fwd, guest a on the device file and guest b on a socket."""

    directory: Path
    ports: list[str]
    fwd: Fwd
    a: WokenGuest
    b: WokenGuest


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with short_dir() as directory:
        machines = Machine("a", Path("/dev/fva"), 1, device_file=True), Machine("b", directory / "b.sock", 2)
        ports = [replace(machines[0], queue_pairs=PAIRS).port, machines[1].port]
        ports += [str(directory / f"{name}.sock") for name in ATTACKED]
        with Fwd(directory, ports, [*IN_PAIRS, "--idle", "interrupt"]) as fwd:
            a, b = (WokenGuest(machine, directory) for machine in machines)
            scene = Scene(directory, ports, fwd, a, b)
            try:
                a.wake(MAX_WAIT)
                b.wake(MAX_WAIT)
                yield scene
            finally:
                scene.a.stop()
                scene.b.stop()


def test_a_guest_on_the_device_file_and_one_on_a_socket_ping_each_other(scene: Scene) -> None:
    assert scene.a.ping(scene.b, 10, max_wait=SLOW) == 10
    assert scene.b.ping(scene.a, 10, bytes=1400, max_wait=SLOW) == 10
    a, b = scene.fwd.show("a"), scene.fwd.show("b")
    assert a["device"] == "/dev/fva"
    assert a["peer_pid"] == scene.a.pid
    assert "VERSION_1" in a["features"]
    assert [ring["index"] for ring in a["rings"] if ring["live"]] == [0, 1]
    assert [ring["broken"] for ring in (*a["rings"], *b["rings"])] == [""] * (2 * PAIRS + 2)
    assert scene.fwd.dropped() == 0


def test_frames_larger_than_a_receive_buffer_arrive_whole(scene: Scene) -> None:
    before = scene.fwd.stats()["ports"]["a"]["rx_frames"]
    assert scene.a.ping(scene.b, 5, bytes=8000, max_wait=SLOW) == 5
    assert scene.b.ping(scene.a, 5, bytes=8000, max_wait=SLOW) == 5
    # One frame each, not fragments: the guests' MTU is 9000.
    assert scene.fwd.stats()["ports"]["a"]["rx_frames"] - before < 20


@pytest.mark.parametrize("sender_is_a", [True, False], ids=["to the socket", "to the device file"])
def test_a_copy_by_tcp_arrives_unchanged(scene: Scene, sender_is_a: bool) -> None:
    sender, receiver = (scene.a, scene.b) if sender_is_a else (scene.b, scene.a)
    sent, received = sender.copy_to(receiver, COPIED_MIB, max_wait=100)
    assert sent == received


def test_a_guest_is_paused_and_goes_on(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    scene.a.monitor("stop")
    scene.fwd.wait_log("port a: rings stopped", after=mark)
    scene.a.monitor("cont")
    assert scene.b.ping(scene.a, 3, max_wait=SLOW) == 3


def test_a_guest_killed_under_traffic_leaves_the_port_waiting_and_the_next_one_is_served(scene: Scene) -> None:
    Path("/proc/sys/vm/nr_hugepages").write_text("104")
    scene.b.run(f"ping -A -q -c 1000000 {scene.a.address} > /dev/null 2>&1 & echo $! > /tmp/traffic")
    mark = len(scene.fwd.log())
    scene.a.kill()
    scene.fwd.wait_log("port a: disconnected: the front-end (closed|ended); listening again", after=mark)
    assert scene.fwd.show("b")["link"] == "up"
    # Its memory on huge pages this time.
    scene.a = WokenGuest(replace(scene.a.machine, memory="hugepages"), scene.directory).wake(MAX_WAIT)
    assert scene.a.ping(scene.b, 10, max_wait=SLOW) == 10
    assert scene.fwd.show("a")["peer_pid"] == scene.a.pid
    scene.b.run("kill $(cat /tmp/traffic)")


def test_a_driver_lets_go_of_the_device_and_takes_it_again_as_in_a_reboot(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    device = scene.a.run("basename $(readlink /sys/class/net/eth0/device)").strip()
    scene.a.run(f"cd /sys/bus/virtio/drivers/virtio_net && echo {device} > unbind", 60)
    scene.fwd.wait_log("port a: rings stopped", after=mark)
    scene.a.run(f"cd /sys/bus/virtio/drivers/virtio_net && echo {device} > bind", 60)
    scene.a.run(f"ip address add {scene.a.address}/24 dev eth0; ip link set eth0 mtu 9000 up", 60)
    assert scene.b.ping(scene.a, 3, max_wait=SLOW) == 3
    assert scene.fwd.show("a")["peer_pid"] == scene.a.pid


@pytest.mark.long  # 80 s; virtio-user has four queue pairs on device files in each run
def test_a_guest_with_several_open_device_files_uses_as_many_queue_pairs(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    scene.a.kill()
    scene.fwd.wait_log("port a: disconnected", after=mark)
    scene.a = WokenGuest(replace(scene.a.machine, memory="shared", queue_pairs=PAIRS), scene.directory).wake(MAX_WAIT)
    for processor in range(PAIRS):
        answered = scene.a.run(f"taskset {1 << processor} ping -A -q -c 5 -W {SLOW} {scene.b.address}; true", 15 * SLOW)
        assert " 5 packets received" in answered
    rings = scene.fwd.show("a")["rings"]
    assert [ring["index"] for ring in rings if ring["live"]] == list(range(2 * PAIRS))
    assert all(ring["frames"] for ring in rings if ring["index"] % 2)


def attacker(scene: Scene) -> Guest:
    memory = Memory([Region(0x10000, 2 << 20), Region(FAR, 1 << 20)])
    return Guest.boot(scene.directory / "x.sock", memory=memory, timeout=SLOW)


def an_address_outside_of_memory(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    with attacker(scene) as guest:
        guest.transmitq.make_available(guest.transmitq.chain([Piece(1 << 60, 60)]), kick=guest.kicks[1])
        scene.fwd.wait_log("port x: ring 1", SLOW, after=mark)


def memory_that_is_cut_short(scene: Scene) -> None:
    """Under the worker's feet."""
    with attacker(scene) as guest:
        guest.memory.regions[1].truncate(0)
        guest.transmitq.make_available(guest.transmitq.chain([Piece(FAR, 72)]), kick=guest.kicks[1])
        assert guest.frontend.wait_closed(SLOW)


def nonsense(scene: Scene) -> None:
    frontend = Frontend.connect(scene.directory / "x.sock", SLOW)
    frontend.send_raw(b"\xff" * 64)
    assert frontend.wait_closed(SLOW)
    frontend.close()


def connections_that_come_to_nothing(scene: Scene) -> None:
    for _ in range(ROUNDS):
        Frontend.connect(scene.directory / "x.sock", SLOW).close()


def rings_enabled_and_disabled(scene: Scene) -> None:
    with attacker(scene) as guest:
        for number in range(ROUNDS):
            guest.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(1, number & 1))


def a_device_file_is_asked_for_its_features() -> None:
    """Ask from a process that is not the owner."""
    fd = os.open("/dev/fva", os.O_RDWR)
    features = bytearray(U64.size)
    fcntl.ioctl(fd, IoctlNumber.GET_FEATURES, features)
    assert U64.unpack(features)[0]
    os.close(fd)


def dropped(scene: Scene) -> int:
    """Frames of the two guests."""
    ports = scene.fwd.stats()["ports"]
    return sum(sum(ports[name][side].values()) for name in "ab" for side in ("rx_dropped", "tx_dropped"))


def test_a_guest_on_the_device_file_loses_nothing_beside_a_socket_that_is_attacked(scene: Scene) -> None:
    before = dropped(scene)
    scene.a.run(f"ping -A -q -W {SLOW} {scene.b.address} > /tmp/said 2>&1 & echo $! > /tmp/beside")
    for attack in (
        an_address_outside_of_memory,
        memory_that_is_cut_short,
        nonsense,
        connections_that_come_to_nothing,
        rings_enabled_and_disabled,
    ):
        attack(scene)
    ends = "pid=$(cat /tmp/beside); kill -INT $pid; while kill -0 $pid 2> /dev/null; do sleep 1; done; cat /tmp/said"
    said = scene.a.run(ends, 2 * SLOW)
    sent, received = map(int, re.findall(r"(\d+) packets", said))
    assert received >= sent - 1 > 0  # one may be in flight at the end
    a = scene.fwd.show("a")
    assert a["peer_pid"] == scene.a.pid
    assert [ring["broken"] for ring in a["rings"]] == [""] * len(a["rings"])
    assert dropped(scene) == before
    a_device_file_is_asked_for_its_features()


def test_the_device_file_is_served_again_after_a_restart_though_an_attacker_holds_what_it_can(scene: Scene) -> None:
    """The guest on it must be restarted, since its kernel's interface cannot reconnect.

    The one on the socket goes on.
    """
    with attacker(scene):
        conservation.check_stats(scene.fwd.stats)
        scene.a.kill()
        assert scene.fwd.stop(SLOW) == 0
        assert not Path("/dev/fva").exists()
        with Fwd(scene.directory, scene.ports, [*IN_PAIRS, "--idle", "interrupt"]) as again:
            a_device_file_is_asked_for_its_features()
            again.wait_log("port b: (rings|first packet)", 4 * SLOW)
