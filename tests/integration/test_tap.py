"""A guest, of any kernel, and this host's network stack, with fwd and a tap interface between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.uml import UmlGuest, UmlMachine
from bench.guests.waits import MAX_WAIT, wait_until
from tests.integration.namespace import Namespace

HOST = "10.0.0.254"


@dataclass
class Scene:
    """A guest on port a, the stack of a namespace on the tap t0."""

    space: Namespace
    fwd: Fwd
    guest: UmlGuest

    def ping(self, count: int = 20, bytes: int = 56) -> int:
        """How many pings of the host the guest answered."""
        words = self.space.run(f"busybox ping -q -A -c {count} -s {bytes} -W 10 {self.guest.address} || true", 120)
        found = re.search(r"(\d+) packets received", words)
        assert found, words
        return int(found[1])

    def dropped(self, reason: str) -> int:
        """Frames towards the tap that were dropped for a reason."""
        return int(self.fwd.stats()["ports"]["t0"]["tx_dropped"][reason])


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    machine = UmlMachine("a", place / "a.sock", 1)
    with Namespace() as space, Fwd(place, [machine.port, "tap:t0,mtu=9000"], prefix=space.prefix) as fwd:
        fwd.wait_log("port t0: made tap t0, MTU 9000")
        space.run(f"ip address add {HOST}/24 dev t0")
        with UmlGuest(machine, place) as guest:
            guest.wait_ready()
            yield Scene(space, fwd, guest)


def test_the_stack_of_the_host_pings_the_guest_and_the_guest_the_host(scene: Scene) -> None:
    assert scene.ping(50) == 50
    assert scene.ping(10, bytes=8000) == 10
    assert " 20 packets received" in scene.guest.run(f"ping -A -q -c 20 {HOST}")
    scene.fwd.wait_log("port t0: first packet from t0")
    assert scene.fwd.warnings() == []


def test_a_tap_that_is_down_drops_as_link_down_and_comes_back_with_the_link(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    scene.space.run("ip link set t0 down")
    scene.fwd.wait_log("port t0: t0 is down; bring it up with: ip link set t0 up", after=mark)
    before = scene.dropped("link_down")
    scene.guest.run(f"ping -q -c 2 -W 1 {HOST}; true")
    assert scene.dropped("link_down") > before
    assert scene.fwd.show("t0")["link"] == "down"

    scene.space.run("ip link set t0 up")
    scene.fwd.wait_log("port t0: t0 is up", after=mark)
    assert scene.ping() == 20


def test_a_tap_that_is_deleted_is_made_again(scene: Scene) -> None:
    mark = len(scene.fwd.log())
    scene.space.run("ip link delete t0")
    scene.fwd.wait_log("port t0: t0 was removed", after=mark)
    scene.fwd.wait_log("port t0: made tap t0", after=mark)
    scene.space.run(f"ip address add {HOST}/24 dev t0")
    assert scene.ping() == 20
    # The administrator made it again at once: that interface is used.
    mark = len(scene.fwd.log())
    scene.space.run("ip link delete t0; ip tuntap add dev t0 mode tap; ip link set t0 up mtu 1500")
    scene.fwd.wait_log("port t0: attached to tap t0, MTU 9000", after=mark)
    scene.space.run(f"ip address add {HOST}/24 dev t0")
    assert scene.ping() == 20


def test_the_interface_goes_with_fwd(scene: Scene) -> None:
    scene.space.run("ip link delete t0")
    wait_until("fwd makes t0 again", MAX_WAIT, lambda: scene.space.has("t0"))
    assert scene.fwd.stop() == 0
    assert not scene.space.has("t0")
