"""App1 on paths 1, 2 and 5, and a pcap port whose interface is removed or whose rights are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.agent import ObedientGuest
from bench.guests.fwd import ENVIRONMENT, FASTVHOST, Fwd
from bench.guests.process import Process
from bench.guests.qemu import Guest, Machine
from tests.integration.namespace import Namespace
from tests.integration.tap_guest import TapGuest

APP1 = Path(__file__).parents[2] / "examples" / "app1.py"
HOST = "10.0.0.254"


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        space.run("ip tuntap add dev t0 mode tap; ip link set t0 up")
        yield space


def app1(directory: Path, port: str, *options: str, space: Namespace | None = None) -> Process:
    """The application, started."""
    command = [sys.executable, "-P", str(APP1), "--port", port, "--json", "--wait", "120", *options]
    return Process("app1", [*(space.prefix if space else []), *command], directory, env=ENVIRONMENT)


def talk(guest: ObedientGuest, app: Process) -> dict[str, Any]:
    """App1's final report, after the guest has pinged it and returned its stream."""
    guest.wait_ready()
    # Pings first: once the guest returns frames, App1 streams, and has ended moments later.
    assert " 10 packets received" in guest.run(f"ping -A -q -c 10 {HOST}")
    redirects = "net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0"
    guest.run(f"sysctl -w net.ipv4.ip_forward=1 {redirects}")
    assert app.popen.wait(60) == 0, app.log()
    return dict(json.loads(app.log().splitlines()[-1]))


STREAM = ("--bounce", "10.0.0.253", "--window", "8", "--count", "200", "--seconds", "20", "--size", "300")


@pytest.mark.parametrize("model", ["e1000", "virtio-net-pci"])
def test_paths_1_and_2_the_host_application_talks_through_the_tap_of_the_guest(
    place: Path, space: Namespace, model: str
) -> None:
    with app1(place, "pcap:t0", *STREAM, space=space) as app, TapGuest(model, place, space, "t0", model) as guest:
        said = talk(guest, app)
    assert (said["sent"], said["intact"], said["corrupt"], said["duplicated"]) == (200, 200, 0, 0)
    assert said["echo_answered"] >= 10
    assert not any(said["stats"]["ports"]["t0"]["rx_dropped"].values())


def test_path_5_the_same_application_talks_to_a_vhost_user_guest(place: Path) -> None:
    machine = Machine("five", place / "five.sock", 1)
    with app1(place, machine.port, *STREAM) as app, Guest(machine, place) as guest:
        said = talk(guest, app)
    assert (said["sent"], said["intact"], said["corrupt"], said["duplicated"]) == (200, 200, 0, 0)
    assert said["echo_answered"] >= 10


def test_an_interface_that_comes_late_goes_and_comes_back_is_captured_each_time(place: Path, space: Namespace) -> None:
    space.run("ip link delete t0")
    with Fwd(place, ["pcap:v0", "tap:t1"], prefix=space.prefix) as fwd:
        fwd.wait_log("port v0: there is no interface v0; waiting for it")
        mark = 0
        for round in range(2):
            space.run("ip link add v0 type veth peer name v1; ip link set v1 up; ip link set v0 up")
            fwd.wait_log("port v0: capturing on v0 with libpcap", after=mark)
            # The peer of v0 sends an ARP request, and t1's side receives it.
            before = fwd.stats()["ports"]["t1"]["tx_frames"]
            space.run(f"ip address add 10.1.{round}.1/24 dev v1; busybox ping -q -c 1 -W 1 10.1.{round}.2 || true")
            assert fwd.stats()["ports"]["t1"]["tx_frames"] > before
            mark = len(fwd.log())
            space.run("ip link set v0 down")
            fwd.wait_log("port v0: v0 is down; bring it up with: ip link set v0 up", after=mark)
            mark = len(fwd.log())
            space.run("ip link set v0 up")
            fwd.wait_log("port v0: capturing on v0", after=mark)
            mark = len(fwd.log())
            space.run("ip link delete v0")
            fwd.wait_log("port v0: v0 was removed; waiting for it to come back", after=mark)
            mark = len(fwd.log())


def refused(space: Namespace, port: str, *prefix: str, **environment: str) -> str:
    """The one line with which fwd refuses to start."""
    done = subprocess.run(
        [*space.prefix, *prefix, *FASTVHOST, "fwd", "--port", "null:", "--port", port, "--cores", "0"],
        env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_without_the_right_to_capture_fwd_says_what_is_missing_and_how_to_get_it(space: Namespace) -> None:
    bounded = ("setpriv", "--bounding-set", "-net_raw,-net_admin", "--inh-caps", "-all")
    said = refused(space, "pcap:t0", *bounded)
    assert said.startswith("fastvhost: pcap t0: not permitted (CAP_NET_RAW); run as root, or as root: setcap cap_")
    said = refused(space, "packet:t0", *bounded)
    assert said == (
        "fastvhost: packet t0: not permitted (CAP_NET_RAW); run as root, or with AmbientCapabilities=CAP_NET_RAW"
    )
    said = refused(space, "tap:t9", *bounded)
    assert said.startswith("fastvhost: tap t9: not permitted (CAP_NET_ADMIN); run as root, or let root make it for")


def test_without_libpcap_fwd_names_the_package(space: Namespace) -> None:
    said = refused(space, "pcap:t0", FASTVHOST_LIBPCAP="libpcap-of-nobody.so")
    assert said == "fastvhost: pcap t0: libpcap is not installed; as root: apt-get install libpcap0.8"
