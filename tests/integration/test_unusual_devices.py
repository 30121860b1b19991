"""Guests unlike QEMU's default: several queue pairs, an MTU, packed rings, large rings, memory plugged in later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.pair import Pair
from bench.guests.waits import MAX_WAIT
from tests.conftest import endurance
from tests.idle_cost import MOST_WAKE_UPS, cost

PLUGGED = 256 << 20
BACK_WITHIN = MAX_WAIT


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[Pair]:
    a = "packed=on,rx_queue_size=1024,tx_queue_size=1024"
    with Pair(place, a={"queue_pairs": 2, "device": a}, b={"queue_pairs": 2, "device": "host_mtu=9000"}) as pair:
        yield pair


def test_guests_with_different_rings_understand_each_other(pair: Pair) -> None:
    assert pair.a.ping(pair.b, 100) == 100
    assert pair.b.ping(pair.a, 100) == 100
    assert pair.a.ping(pair.b, 20, bytes=8000) == 20
    assert pair.b.ping(pair.a, 20, bytes=8000) == 20
    features = pair.fwd.wait_log("port a: features .*")[0]
    assert "RING_PACKED" in features
    assert "MQ" in features
    assert pair.fwd.warnings() == []


def test_the_mtu_that_qemu_was_told_is_agreed_on_and_shown(pair: Pair) -> None:
    assert "MTU" in pair.fwd.wait_log("port b: features .*")[0].split()
    assert pair.fwd.show("b")["mtu"] == 9000
    assert pair.fwd.show("a").get("mtu") is None
    # The guest's driver read it from the device, and takes no more.
    more = "ip link set eth0 mtu 9001 2> /dev/null || echo refused; ip link set eth0 mtu 9000"
    assert "refused" in pair.b.run(more)
    assert "refused" not in pair.a.run(more)


def test_guests_that_say_nothing_cost_a_look_every_20_ms(pair: Pair) -> None:
    # Guests send a frame now and then: a router solicitation, a neighbour solicitation. After each frame the worker
    # polls for 200 us, up to 2000 rounds. A worker that never sleeps makes millions; one that only naps wakes 20,000
    # times.
    turns = [cost(pair.fwd.pid, pair.fwd.rounds, 2.0) for _ in range(3)]
    least = min(turns)
    assert least.wake_ups < MOST_WAKE_UPS, turns
    assert least.rounds < 20_000, turns


def test_packed_rings_go_on_when_fwd_is_killed_or_ended_and_started_again(
    pair: Pair, pytestconfig: pytest.Config
) -> None:
    """Twenty times with --long. The position of packed rings is not in guest memory."""
    for guest, other in ((pair.a, pair.b), (pair.b, pair.a)):
        guest.run(f"ping -A -q {other.address} > /dev/null 2>&1 &")
    took = []
    for n in range(round(5 * endurance(pytestconfig))):
        pair.fwd.kill() if n % 2 else pair.fwd.stop()
        pair.start_fwd()
        took.append(pair.b.wait_answer(pair.a, BACK_WITHIN))
        pair.fwd.wait_log(r"port a: rings [\d ]+ running, size 1024, from where the fwd before left them")
        assert pair.fwd.warnings() == []
    assert min(took) < 5
    for guest in (pair.a, pair.b):
        guest.run("killall -q ping; true")
    assert pair.a.ping(pair.b, 100) == 100


@pytest.mark.parametrize("sender_is_a", [True, False], ids=["a", "b"])
def test_each_processor_of_a_guest_sends_through_a_queue_of_its_own(pair: Pair, sender_is_a: bool) -> None:
    sender, receiver = (pair.a, pair.b) if sender_is_a else (pair.b, pair.a)
    before = frames_from(pair, sender.name)

    for processor in (1, 2):
        sender.run(f"taskset {processor} ping -A -q -c 30 {receiver.address}")

    after = frames_from(pair, sender.name)
    assert all(now >= then + 30 for then, now in zip(before, after, strict=True))


def frames_from(pair: Pair, port: str) -> list[int]:
    """Frames that came from a guest, by transmitq."""
    return [ring["frames"] for ring in pair.fwd.show(port)["rings"] if ring["index"] % 2]


def test_memory_plugged_in_under_traffic_is_used_and_disturbs_nothing(pair: Pair) -> None:
    dropped = pair.fwd.dropped()
    pair.a.run(f"ping -A -q {pair.b.address} > /dev/null 2>&1 &")

    memory = {"qom-type": "memory-backend-memfd", "id": "m1", "size": PLUGGED, "share": True}
    pair.a.monitor("object-add", **memory)
    pair.a.monitor("device_add", driver="pc-dimm", id="d1", memdev="m1")
    pair.fwd.wait_log("port a: memory 2 regions, 448 MiB")

    # More data than the guest had memory: part of it is sent from the memory that was plugged in.
    # Its kernel notices that some time later.
    online = "for block in /sys/devices/system/memory/memory*/state; do echo online > $block; done 2> /dev/null"
    pair.a.run(
        f"until [ $(sed -n 's/MemTotal: *//; 1s/ kB//p' /proc/meminfo) -gt 300000 ]; do {online}; sleep 0.1; done",
        MAX_WAIT,
    )
    pair.a.run("mount -o remount,size=90% /tmp; dd if=/dev/urandom of=/tmp/sent bs=1M count=220 2>&1", 60)
    pair.b.take_a_copy()
    received = pair.a.run(f"nc {pair.b.address} 5000 < /tmp/sent", 120)
    assert received == pair.a.run("sha256sum < /tmp/sent; rm /tmp/sent", 60)

    pair.a.run("killall -INT ping")
    assert pair.fwd.dropped() == dropped
    assert pair.fwd.warnings() == []
