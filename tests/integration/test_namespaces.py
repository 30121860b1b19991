"""Taps that are moved into other network namespaces, and ports on interfaces of such. Real interfaces, real fwd."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.waits import wait_until
from tests.integration.namespace import Namespace

PROTOCOL = 0x88B5
"""For local experiments (IEEE 802): no stack sends or answers such frames."""
WAIT = 60
"""Seconds for what takes almost no time on an idle machine."""
WITHOUT_SYS_ADMIN = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-all")
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-sys_admin,-net_admin", "--inh-caps", "-all")


@pytest.fixture
def home() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


@pytest.fixture
def away() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


@contextlib.contextmanager
def ends(*places: tuple[Namespace, str]) -> Iterator[list[socket.socket]]:
    """A packet socket on each of these interfaces, of the namespace that it is in."""
    with contextlib.ExitStack() as closing:
        sockets = []
        for space, interface in places:
            with space.entered():
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOL))
            closing.enter_context(sock)
            sock.settimeout(WAIT)
            sock.bind((interface, PROTOCOL))
            sockets.append(sock)
        yield sockets


def exchange(one: tuple[Namespace, str], other: tuple[Namespace, str]) -> None:
    """Frames go both ways between the stacks behind two interfaces."""
    with ends(one, other) as (a, b):
        for n, (source, target) in enumerate([(a, b), (b, a)] * 5):
            frame = bytes(12) + PROTOCOL.to_bytes(2, "big") + bytes([n]) * 46
            source.send(frame)
            got, (*_, kind, _, _) = target.recvfrom(2000)
            while kind == socket.PACKET_OUTGOING:
                got, (*_, kind, _, _) = target.recvfrom(2000)
            assert got == frame


def move(space: Namespace, interface: str, to: Namespace, name: str = "") -> None:
    space.run(f"ip link set {interface} netns {to.name} {f'name {name}' if name else ''}")


def test_a_tap_that_is_moved_to_another_namespace_goes_on_there_and_comes_back(
    place: Path, home: Namespace, away: Namespace
) -> None:
    with Fwd(place, ["tap:t0", "tap:t1"], prefix=home.prefix) as fwd:
        for name in ("t0", "t1"):
            fwd.wait_log(f"port {name}: made tap {name}, MTU 1500", WAIT)
        wait_until("fwd answers", WAIT, fwd.control.exists)
        exchange((home, "t0"), (home, "t1"))
        move(home, "t0", away, "eth0")
        there = f"network namespace {away.name}"
        fwd.wait_log(f"port t0: t0 was moved to {there} and is called eth0 now; this port goes on with it", WAIT)
        remedy = f"ip netns exec {away.name} ip link set eth0 up"
        fwd.wait_log(f"port t0: eth0 in {there} is down; bring it up with: {remedy}", WAIT)
        assert fwd.show("t0")["link"] == "down"
        away.run("ip link set eth0 mtu 1400 up")
        fwd.wait_log(f"port t0: eth0 in {there} is up", WAIT)
        exchange((away, "eth0"), (home, "t1"))
        wait_until("show tells the MTU", WAIT, lambda: fwd.show("t0")["mtu"] == 1400)
        shown = fwd.show("t0")
        assert (shown["interface"], shown["called"], shown["netns"]) == ("t0", "eth0", away.name)
        assert (shown["up"], shown["link"]) == (True, "up")
        mark = len(fwd.log())
        move(away, "eth0", home, "t5")
        back = "eth0 is back in its network namespace and is called t5 now; this port goes on with it"
        fwd.wait_log(f"port t0: {back}", WAIT, after=mark)
        fwd.wait_log("port t0: t5 is down; bring it up with: ip link set t5 up", WAIT, after=mark)
        home.run("ip link set t5 up")
        fwd.wait_log("port t0: t5 is up", WAIT, after=mark)
        exchange((home, "t5"), (home, "t1"))
        assert fwd.show("t0")["called"] == "t5"
        assert "made tap" not in fwd.log()[mark:]


def test_a_tap_that_is_renamed_goes_on(place: Path, home: Namespace) -> None:
    with Fwd(place, ["tap:t0", "null:"], prefix=home.prefix) as fwd:
        fwd.wait_log("port t0: made tap t0, MTU 1500", WAIT)
        home.run("ip link set t0 name t9")
        fwd.wait_log("port t0: t0 was renamed and is called t9 now; this port goes on with it", WAIT)
        mark = len(fwd.log())
        home.run("ip link set t9 down")
        fwd.wait_log("port t0: t9 is down; bring it up with: ip link set t9 up", WAIT, after=mark)
        home.run("ip link set t9 up")
        fwd.wait_log("port t0: t9 is up", WAIT, after=mark)
        assert not home.has("t0")


def test_a_moved_tap_that_is_deleted_or_whose_namespace_ends_is_made_again_at_home(
    place: Path, home: Namespace, away: Namespace
) -> None:
    with Fwd(place, ["tap:t0", "null:"], prefix=home.prefix) as fwd:
        for end in (lambda: away.run("ip link delete t0"), away.close):
            fwd.wait_log("port t0: made tap t0, MTU 1500", WAIT)
            mark = len(fwd.log())
            move(home, "t0", away)
            fwd.wait_log(f"port t0: t0 was moved to network namespace {away.name}; this port goes on", WAIT, after=mark)
            away.run("ip link set t0 up")
            fwd.wait_log("port t0: t0 in .* is up", WAIT, after=mark)
            end()
            fwd.wait_log(f"port t0: t0 in network namespace {away.name} was removed", WAIT, after=mark)
            fwd.wait_log("port t0: made tap t0, MTU 1500", WAIT, after=mark)
        assert home.has("t0")


@pytest.mark.parametrize("rights", [WITHOUT_SYS_ADMIN, WITHOUT_NET_ADMIN], ids=["not to enter", "not even to know"])
def test_a_moved_tap_goes_on_without_the_right_to_look_into_its_namespace(
    place: Path, home: Namespace, away: Namespace, rights: tuple[str, ...]
) -> None:
    for name in ("t0", "t1"):
        home.run(f"ip tuntap add dev {name} mode tap user root; ip link set {name} up")
    with Fwd(place, ["tap:t0", "tap:t1"], prefix=[*home.prefix, *rights]) as fwd:
        fwd.wait_log("port t1: attached to tap t1", WAIT)
        move(home, "t0", away)
        fwd.wait_log("port t0: t0 was moved to .*network namespace.*; this port goes on with it", WAIT)
        with ends((home, "t1")) as (sender,):
            # The interface is down there. A failing call of the worker shows that, and frames drop as link_down
            # meanwhile.
            def dropped() -> int:
                sender.send(bytes(12) + PROTOCOL.to_bytes(2, "big") + bytes(46))
                return int(fwd.stats()["ports"]["t0"]["tx_dropped"]["link_down"])

            wait_until("frames drop", WAIT, lambda: dropped() > 3 and fwd.show("t0")["link"] == "down")
        away.run("ip link set t0 up")
        wait_until("the link is tried again", WAIT, lambda: fwd.show("t0")["link"] == "up")
        exchange((away, "t0"), (home, "t1"))
        move(away, "t0", home)
        fwd.wait_log("port t0: t0 is back in its network namespace; this port goes on with it", WAIT)
        home.run("ip link set t0 up")
        fwd.wait_log("port t0: t0 is up", WAIT)
        exchange((home, "t0"), (home, "t1"))


def test_an_interface_that_was_moved_or_renamed_is_not_called_removed(
    place: Path, home: Namespace, away: Namespace
) -> None:
    for veth in "vwx":
        home.run(f"ip link add {veth}0 type veth peer name {veth}1; ip link set {veth}0 up; ip link set {veth}1 up")
    kinds = {"v0": "packet", "w0": "xdp", "x0": "pcap"}
    ports = [word for n, (port, kind) in enumerate(kinds.items()) for word in (f"{kind}:{port}", f"null:,name=n{n}")]
    attached = {"v0": "packet socket on v0", "w0": "AF_XDP on w0", "x0": "capturing on x0"}
    with Fwd(place, ports, IN_PAIRS, prefix=home.prefix) as fwd:
        for port, words in attached.items():
            fwd.wait_log(f"port {port}: {words}", WAIT)
        mark = len(fwd.log())
        for port in attached:
            move(home, port, away)
        for port in attached:
            waits = f"port {port}: {port} was moved to another network namespace; waiting for it to come back"
            finds = "" if port == "x0" else r" \(netns= on the port finds it there\)"
            fwd.wait_log(f"{waits}{finds}$", WAIT, after=mark)
        mark = len(fwd.log())
        for port in attached:
            move(away, port, home)
            home.run(f"ip link set {port} up")
        for port, words in attached.items():
            fwd.wait_log(f"port {port}: {words}", WAIT, after=mark)
        mark = len(fwd.log())
        home.run("ip link set v0 name v7")
        fwd.wait_log("port v0: v0 was renamed to v7; waiting for an interface of its old name", WAIT, after=mark)


def test_ports_in_a_namespace_that_comes_later_ends_and_comes_again(place: Path, home: Namespace) -> None:
    name = f"fv-{os.getpid()}-later"
    ports = ["tap:h0", f"tap:t0,netns={name}", "tap:h1", f"packet:v0,netns={name}", "tap:h2", f"xdp:w0,netns={name}"]
    attached = {
        "t0": f"made tap t0 in network namespace {name}, MTU 1500",
        "v0": f"packet socket on v0 in network namespace {name}, MTU 1500",
        "w0": f"AF_XDP on w0 in network namespace {name}, native mode, copy, MTU 1500",
    }
    with Fwd(place, ports, IN_PAIRS, prefix=home.prefix) as fwd:
        mark = 0
        for _ in range(2):
            for port in attached:
                fwd.wait_log(f"port {port}: there is no network namespace {name}; waiting for it", WAIT, after=mark)
            mark = len(fwd.log())
            with Namespace(name) as away:
                for veth in "vw":
                    away.run(
                        f"ip link add {veth}0 type veth peer name {veth}1 netns {home.name}; ip link set {veth}0 up"
                    )
                    home.run(f"ip link set {veth}1 up")
                for port, words in attached.items():
                    fwd.wait_log(f"port {port}: {words}", WAIT, after=mark)
                exchange((away, "t0"), (home, "h0"))
                exchange((home, "v1"), (home, "h1"))
                exchange((home, "w1"), (home, "h2"))
                shown = fwd.show("t0")
                assert (shown["netns"], shown["up"], shown["mtu"]) == (name, True, 1500)
                away.run("ip link set t0 down; ip link set v0 down")
                for port in ("t0", "v0"):
                    remedy = f"ip netns exec {name} ip link set {port} up"
                    fwd.wait_log(f"port {port}: {port} is down; bring it up with: {remedy}", WAIT, after=mark)
                away.run("ip link delete v0")
                fwd.wait_log(
                    "port v0: v0 was removed; waiting for it|port v0: there is no interface v0 in", WAIT, after=mark
                )
                assert not home.has("t0")
            mark = len(fwd.log())
            for port in ("t0", "w0"):
                fwd.wait_log(f"port {port}: network namespace {name} was removed, and {port} is let go of", WAIT)
            # fwd keeps no file of it open, so the namespace ends, and with it the other end of its veth.
            wait_until("the namespace ends", WAIT, lambda: not home.has("w1"))


def test_a_process_names_its_namespace_until_it_ends_or_goes_elsewhere(place: Path, home: Namespace) -> None:
    with subprocess.Popen([*home.prefix, "unshare", "--net", "sleep", "300"]) as process:
        wait_until("it is there", WAIT, lambda: own_net(process.pid) not in (own_net(os.getpid()), home_net(home)))
        fwd = Fwd(place, [f"tap:t0,netns={process.pid}", "null:"], prefix=home.prefix)
        with fwd:
            fwd.wait_log(f"port t0: made tap t0 in the network namespace of process {process.pid}, MTU 1500", WAIT)
            inside = ["nsenter", "-t", str(process.pid), "-n", "ip", "-br", "link", "show", "t0"]
            assert "UP" in subprocess.run(inside, capture_output=True, text=True, check=True, timeout=WAIT).stdout
            assert not home.has("t0")
            process.kill()
            process.wait()
            fwd.wait_log(f"port t0: process {process.pid} ended, and t0 is let go of", WAIT)
            fwd.wait_log(f"port t0: netns={process.pid}: that process is gone; start fwd anew, with the id of", WAIT)
            assert fwd.popen.poll() is None
        with Fwd(place, [f"tap:t0,netns={process.pid}", "null:"], prefix=home.prefix) as late:
            wait_until("fwd ends", WAIT, lambda: late.popen.poll() is not None)
            assert f"netns={process.pid}: there is no such process; give the id of one that runs" in late.log()


@pytest.mark.parametrize("port", ["tap:t0", "packet:v0", "xdp:v0"])
def test_without_the_right_to_enter_it_is_told_which_one(
    place: Path, home: Namespace, away: Namespace, port: str
) -> None:
    away.run("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up")
    with Fwd(place, [f"{port},netns={away.name}", "null:"], prefix=[*home.prefix, *WITHOUT_SYS_ADMIN]) as fwd:
        wait_until("fwd ends", WAIT, lambda: fwd.popen.poll() is not None)
        assert fwd.popen.returncode == 1
        assert f"network namespace {away.name}: not permitted to enter it (CAP_SYS_ADMIN); run as root" in fwd.log()


def own_net(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def home_net(space: Namespace) -> int:
    return Path("/run/netns", space.name).stat().st_ino
