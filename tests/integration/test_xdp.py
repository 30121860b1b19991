"""AF_XDP on veths: a QEMU guest and two stacks of this host, with one fwd between them; and refusals."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.guests.fwd import ENVIRONMENT, FASTVHOST, IN_PAIRS, Fwd
from bench.guests.qemu import Guest, Machine
from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from tests.integration.namespace import Namespace
from tests.integration.receiver import TAGGED, received, sending

HOST = "10.0.0.254"
STACK = "10.0.1.1"
FAR_STACK = "10.0.1.254"
MIB = 1 << 20


@dataclass
class Scene:
    """Guest a - v0 = v1 in the far namespace; tap t0 of the near stack - w0 = w1 in the far namespace."""

    near: Namespace
    far: Namespace
    fwd: Fwd
    guest: Guest

    def connect(self, pair: str, address: str) -> None:
        """A new veth between the two namespaces."""
        self.near.run(f"ip link add {pair}0 type veth peer name {pair}1 netns {self.far.name}; ip link set {pair}0 up")
        self.far.run(f"ip address add {address}/24 dev {pair}1; ip link set {pair}1 up")

    def ping(self, address: str, count: int = 20) -> int:
        """How many pings from the far namespace were answered."""
        words = self.far.run(f"busybox ping -q -A -c {count} -W 2 {address} || true", 60)
        found = re.search(r"(\d+) packets received", words)
        assert found, words
        return int(found[1])

    def dropped(self, port: str) -> int:
        """Frames that a port dropped, either way."""
        counters = self.fwd.stats()["ports"][port]
        return sum((*counters["rx_dropped"].values(), *counters["tx_dropped"].values()))


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    machine = Machine("a", place / "a.sock", 1)
    ports = [machine.port, "xdp:v0", "tap:t0", "xdp:w0"]
    with Namespace() as near, Namespace() as far, Fwd(place, ports, IN_PAIRS, prefix=near.prefix) as fwd:
        fwd.wait_log("port v0: there is no interface v0; waiting for it")
        with Guest(machine, place) as guest:
            scene = Scene(near, far, fwd, guest)
            scene.connect("v", HOST)
            scene.connect("w", FAR_STACK)
            for port in ("v0", "w0"):
                fwd.wait_log(f"port {port}: AF_XDP on {port}, native mode, copy, MTU 1500$")
            near.run(f"ip address add {STACK}/24 dev t0")
            guest.wait_ready()
            guest.run("ip link set eth0 mtu 1500")
            yield scene


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory for another fwd than the scene's."""
    with short_dir() as directory:
        yield directory


def test_the_guest_and_the_namespace_ping_each_other(scene: Scene) -> None:
    assert scene.ping("10.0.0.1", 50) == 50
    assert " 20 packets received" in scene.guest.run(f"ping -A -q -c 20 {HOST}")
    scene.fwd.wait_log("port v0: first packet from v0")
    how = scene.fwd.show("v0")["xdp"]
    assert how == {"mode": "native", "frames": "copy", "queues": 1, "receive_queues": 1}


def test_tcp_passes_both_ways_though_the_stack_leaves_checksums_to_the_card(scene: Scene) -> None:
    file = f"/tmp/{scene.far.name}"
    data = scene.far.run(f"head -c {4 * MIB} /dev/urandom > {file}; sha256sum < {file}").split()[0]
    sides = (scene.near, scene.far, STACK), (scene.far, scene.near, FAR_STACK)
    for here, there, address in sides:
        with here.listening(5000, 60):
            assert there.run(f"busybox nc {address} 5000 < {file}", 60).split()[0] == data
    # A guest checks checksums, too.
    scene.guest.take_a_copy()
    assert scene.far.run(f"busybox nc 10.0.0.1 5000 < {file}; rm {file}", 60).split()[0] == data
    assert scene.dropped("w0") == scene.dropped("v0") == 0


def test_a_veth_that_goes_down_and_one_that_is_made_again_are_taken_up_again(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    scene.near.run("ip link set w0 down")
    scene.fwd.wait_log("port w0: w0 is down; bring it up with: ip link set w0 up", after=mark)
    scene.near.run("ip link set w0 up")
    scene.fwd.wait_log("port w0: AF_XDP on w0", after=mark)
    assert scene.ping(STACK) == 20
    for _ in range(2):
        mark = len(scene.fwd.log())
        scene.near.run("ip link delete w0")
        scene.fwd.wait_log("port w0: w0 was removed; waiting for it to come back", after=mark)
        scene.connect("w", FAR_STACK)
        scene.fwd.wait_log("port w0: AF_XDP on w0", after=mark)
        assert scene.ping(STACK) == 20


def test_what_the_kernel_had_no_room_for_is_counted_and_the_port_goes_on(scene: Scene) -> None:
    before = scene.fwd.stats()["ports"]["w0"]
    scene.fwd.popen.send_signal(signal.SIGSTOP)
    try:
        flood = "import socket; s = socket.socket(17, 3); s.bind(('w1', 0)); [s.send(bytes(64)) for _ in range(5000)]"
        subprocess.run([*scene.far.prefix, sys.executable, "-c", flood], check=True, timeout=60)
    finally:
        scene.fwd.popen.send_signal(signal.SIGCONT)

    def counted() -> bool:
        after = scene.fwd.stats()["ports"]["w0"]
        lost = after["rx_dropped"]["kernel_overrun"] - before["rx_dropped"]["kernel_overrun"]
        return lost > 0 and lost + after["rx_frames"] - before["rx_frames"] >= 5000

    wait_until("every frame received or counted", MAX_WAIT, counted)
    assert scene.ping(STACK) == 20


def test_frames_of_every_bound_queue_arrive_as_they_were_sent_tags_and_all(place: Path) -> None:
    with Namespace() as space:
        space.run("ip link add w0 numrxqueues 2 numtxqueues 2 type veth peer name w1 numrxqueues 2 numtxqueues 2")
        space.run("ip link set w0 up; ip link set w1 up")
        sent = [TAGGED[:-1] + bytes([n]) for n in range(4)]
        assert received(space, place, "xdp:w0,queues=2", 4, sending("w1", sent)) == sent


NO_SUPER_FRAMES = """
import array, fcntl, socket, struct
with socket.socket() as sock:
    for command in (0x1F, 0x24):  # what `ethtool -K g1 tso off gso off` asks for
        off = array.array("I", (command, 0))
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP16x", b"g1", off.buffer_info()[0]))
"""


def test_generic_mode_where_the_driver_refuses_and_what_is_too_long_drops_as_oversize(elsewhere: Path) -> None:
    with Namespace() as space, Namespace() as far:
        space.run(f"ip link add g0 type veth peer name g1 netns {far.name}; ip link set g0 up")
        far.run("ip link set g1 mtu 9000; ip address add 10.0.2.2/24 dev g1; ip link set g1 up")
        with Fwd(elsewhere, ["xdp:g0", "tap:t0"], prefix=space.prefix) as fwd:
            fwd.wait_log("port g0: AF_XDP on g0, generic mode, copy, MTU 1500; .* ethtool -K IFACE tso off gso off")
            space.run("ip address add 10.0.2.1/24 dev t0")
            assert " 20 packets received" in far.run("busybox ping -q -A -c 20 10.0.2.1", 30)
            space.run("ip link set t0 mtu 3400; busybox ping -q -c 1 -s 3000 -W 1 10.0.2.2 || true")
            assert fwd.stats()["ports"]["g0"]["tx_dropped"]["oversize"] == 1
            space.run("ip link set t0 mtu 1500")
            send = "head -c 2000000 /dev/zero | timeout 3 busybox nc 10.0.2.1"

            def too_long() -> int:
                counters = fwd.stats()["ports"]["g0"]["rx_dropped"]
                return int(counters["oversize"] + counters["kernel_overrun"])

            def come_to_rest() -> int:
                """The kernel's drops, which fwd reads twice a second."""
                before = too_long()
                time.sleep(2.5)
                return before if too_long() == before else 0

            with space.listening(5000, 5):
                far.run(f"{send} 5000 || true")
            subprocess.run([*far.prefix, sys.executable, "-c", NO_SUPER_FRAMES], check=True, timeout=20)
            # Only now, since the other stack may have sent some frames again until here.
            before = wait_until("frames too long, and no more of them", MAX_WAIT, come_to_rest)
            with space.listening(5001, 60):
                assert far.run(f"{send} 5001").split()[0] == hashlib.sha256(bytes(2000000)).hexdigest()
            assert come_to_rest() == before


def refused(space: Namespace, port: str, *prefix: str) -> str:
    """The one line with which fwd refuses to start."""
    done = subprocess.run(
        [*space.prefix, *prefix, *FASTVHOST, "fwd", "--port", "null:", "--port", port, "--cores", "0"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_killed_fwd_leaves_no_xdp_program_and_a_second_fwd_is_refused_with_the_reason(elsewhere: Path) -> None:
    with Namespace() as space:
        space.run("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up")
        with Fwd(elsewhere, ["xdp:v0", "null:"], prefix=space.prefix) as fwd:
            fwd.wait_log("port v0: AF_XDP on v0, native mode")
            assert "name fastvhost" in space.run("ip link show v0")
            said = refused(space, "xdp:v0")
            assert said.startswith("fastvhost: xdp v0: another XDP program is attached; stop the program that did so")
            fwd.kill()
        with Fwd(elsewhere, ["xdp:v0", "null:"], prefix=space.prefix) as fwd:
            fwd.wait_log("port v0: AF_XDP on v0, native mode")
        assert "xdp" not in space.run("ip link show v0")


def test_without_the_rights_fwd_names_them() -> None:
    with Namespace() as space:
        space.run("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up")
        for missing in ("net_raw", "net_admin,-sys_admin"):
            said = refused(space, "xdp:v0", "setpriv", "--bounding-set", f"-{missing}", "--inh-caps", "-all")
            assert said.startswith("fastvhost: xdp v0: not permitted (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF); run as ro")
        said = refused(space, "xdp:v0,queues=3")
        assert said.startswith("fastvhost: xdp v0: it has 1 of the 3 receive queues; write queues=1, or as root: ethto")
