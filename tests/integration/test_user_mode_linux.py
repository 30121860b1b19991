"""Two guests under user-mode Linux 7.2, which is a front-end itself: a newer kernel, and at native speed."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import MTU, UmlGuest, UmlMachine
from bench.guests.waits import MAX_WAIT, wait_until

MIB = 1 << 20
COPIED = 8 * MIB
PAIRS = 4


class UmlPair:
    """fwd and two guests on ports of one kind. machines: the guests' configurations."""

    def __init__(self, directory: Path, without: str, queue_pairs: int = 1) -> None:
        # A driver that asks is told 1500 where the port has no mtu=.
        self.machines = [
            UmlMachine(
                name, directory / f"{name}.sock", number, queue_pairs, without, told=number == 1 or queue_pairs > 1
            )
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
    assert pair.fwd.warnings() == []


def test_a_guest_has_the_mac_and_the_mtu_of_its_port(pair: UmlPair) -> None:
    machine = pair.machines[0]
    told = pair.a.run("cd /sys/class/net/eth0 && cat address addr_assign_type mtu carrier")
    assert told.split() == [machine.mac, "0", str(MTU), "1"]  # 0: the device's own, not made up by its driver
    assert pair.a.run("ip link set eth0 mtu 9001 2>&1; echo $?").split()[-1] != "0"  # the largest one
    shown = pair.fwd.show("a")
    assert {"MAC", "MTU", "STATUS"} <= set(shown["features"])
    assert (shown["mac"], shown["mtu"]) == (machine.mac, MTU)
    # The other guest's port has nothing to tell, so its driver is not offered CONFIG.
    assert not {"MAC", "STATUS"} & set(pair.fwd.show("b")["features"])


def rebind(guest: UmlGuest) -> None:
    """Unbind the driver from the device, and bind it again. The interface is a new one then."""
    guest.run("echo virtio0 > /sys/bus/virtio/drivers/virtio_net/unbind")
    assert "eth0" not in guest.run("ls /sys/class/net")
    guest.run("echo virtio0 > /sys/bus/virtio/drivers/virtio_net/bind")
    guest.run("ip link set eth0 address $guest_mac; ip link set eth0 up; ip address add $guest_address dev eth0")


TAKEN_BACK = re.compile(r"port a: ring [1357] is broken and stopped: the available index ran ahead by more than .*")
"""A driver that is unbound takes back, in a split ring, what it had made available (virtqueue_detach_unused_buf() of
Linux). By the specification the device is reset then, but user-mode Linux tells us only after it. Now and then."""


def warnings(pair: UmlPair) -> list[str]:
    """Warnings other than the one that is unavoidable where a driver is unbound."""
    split = pair.machines[0].without == "RING_PACKED"
    return [line for line in pair.fwd.warnings() if not (split and TAKEN_BACK.search(line))]


def test_a_driver_that_is_unbound_and_bound_under_traffic_has_it_back(pair: UmlPair) -> None:
    pair.b.run(f"ping -i 0.01 -q {pair.a.address} > /dev/null 2>&1 &")
    for _ in range(12):
        rebind(pair.a)
        assert pair.a.ping(pair.b, 5) == 5
    pair.b.run("killall ping")
    assert pair.b.ping(pair.a, 20) == 20
    assert not any(ring["broken"] for ring in pair.fwd.show("a")["rings"])
    assert warnings(pair) == []


def test_a_guest_that_powers_off_ends_well_and_comes_again(pair: UmlPair) -> None:
    assert pair.a.power_off() == 0
    wait_until("port a is down", MAX_WAIT, lambda: pair.fwd.stats()["ports"]["a"]["link"] == "down")
    with UmlGuest(pair.machines[0], pair.fwd.directory) as again:
        again.wait_ready(60)
        assert again.ping(pair.b, 20) == 20
    assert warnings(pair) == []


@pytest.fixture(scope="module", params=["RING_PACKED", ""], ids=["split", "packed"])
def wide_pair(request: pytest.FixtureRequest) -> Iterator[UmlPair]:
    """Four queue pairs each, and the control queue, which sets how many are in use."""
    with short_dir() as directory:
        source = Path(__file__).parents[2] / "scripts" / "guest" / "ethtool.c"
        subprocess.run(["gcc", "-Os", "-static", "-o", directory / "ethtool", source], check=True, timeout=60)
        with UmlPair(directory, request.param, PAIRS) as pair:
            yield pair


def frames(pair: UmlPair, port: str) -> list[int]:
    """Frames of each ring so far."""
    return [ring["frames"] for ring in pair.fwd.show(port)["rings"][: 2 * PAIRS]]


def test_a_driver_uses_as_many_pairs_as_its_control_queue_was_told(wide_pair: UmlPair) -> None:
    pair = wide_pair
    for guest in (pair.a, pair.b):
        # The guest has one processor, so it begins with one pair.
        assert guest.run("/run/shared/ethtool -l eth0") == f"1 of {PAIRS}\n"
    assert pair.a.ping(pair.b, 20) == 20
    assert not any(frames(pair, "a")[2:] + frames(pair, "b")[2:])

    for guest in (pair.a, pair.b):
        assert guest.run(f"/run/shared/ethtool -L eth0 combined {PAIRS}") == f"{PAIRS} of {PAIRS}\n"
    before = frames(pair, "a"), frames(pair, "b")
    # The driver spreads flows over its queues: enough of them, each a SYN that is refused, come by every one.
    flows = "for port in $(seq 6000 6060); do nc -w 1 {} $port < /dev/null 2> /dev/null; done; true"
    pair.a.run(flows.format(pair.b.address), 60)
    pair.b.run(flows.format(pair.a.address), 60)
    after = frames(pair, "a"), frames(pair, "b")
    for port in range(2):
        assert all(now > then for then, now in zip(before[port], after[port], strict=True)), (before, after)
    assert pair.a.ping(pair.b, 20) == 20

    assert pair.b.run("/run/shared/ethtool -L eth0 combined 2") == f"2 of {PAIRS}\n"
    assert pair.a.ping(pair.b, 20) == 20

    # Another driver, which sets the number of pairs again.
    rebind(pair.a)
    assert pair.a.run("/run/shared/ethtool -l eth0") == f"1 of {PAIRS}\n"
    assert pair.a.ping(pair.b, 20) == 20
    assert pair.a.run("/run/shared/ethtool -L eth0 combined 3") == f"3 of {PAIRS}\n"
    assert pair.a.ping(pair.b, 20) == 20
    shown = pair.fwd.show("b")
    assert {"MQ", "CTRL_VQ"} <= set(shown["features"])
    assert not any(ring["broken"] for ring in shown["rings"])
    assert warnings(pair) == []
