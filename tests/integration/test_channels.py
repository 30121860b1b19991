"""Two guests of four queue pairs each change how many they use, under traffic, as `ethtool -L eth0 combined N` does."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.guests.pair import Pair
from bench.guests.qemu import Guest
from bench.guests.waits import MAX_WAIT, wait_until

PAIRS = 4
CHANGES = 12


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[Pair]:
    with Pair(place, a={"queue_pairs": PAIRS}, b={"queue_pairs": PAIRS, "device": "packed=on"}) as pair:
        yield pair


def use(guest: Guest, pairs: int) -> None:
    assert guest.run(f"ethtool -L eth0 combined {pairs}") == f"{pairs} of {PAIRS}\n"


def as_many(pair: Pair, port: str, pairs: int) -> bool:
    """Whether the rings of exactly `pairs` pairs are enabled."""
    return [ring["index"] for ring in pair.fwd.show(port)["rings"] if ring["enabled"]] == list(range(2 * pairs))


def frames_from(pair: Pair, port: str) -> list[int]:
    """Frames that came from a guest, by transmitq."""
    return [ring["frames"] for ring in pair.fwd.show(port)["rings"] if ring["index"] % 2]


def flows(sender: Guest, receiver: Guest, count: int) -> None:
    """One ping after the other from each processor of a guest."""
    for processor in range(PAIRS):
        answered = sender.run(f"taskset {1 << processor} ping -A -q -c {count} -W 10 {receiver.address}; true", 100)
        assert f" {count} packets received" in answered


@pytest.mark.parametrize("port", ["a", "b"])
def test_as_many_pairs_are_enabled_as_the_guest_says_and_frames_come_from_those_only(pair: Pair, port: str) -> None:
    guest, other = (pair.a, pair.b) if port == "a" else (pair.b, pair.a)
    for pairs in (1, 3, 2, PAIRS):
        use(guest, pairs)
        wait_until(f"{pairs} pairs are enabled", MAX_WAIT, partial(as_many, pair, port, pairs))
        before = frames_from(pair, port)
        flows(guest, other, 3)
        flows(other, guest, 3)
        now = frames_from(pair, port)
        used = [number for number, n in enumerate(now) if n > before[number]]
        assert used == list(range(pairs))


def test_changes_under_traffic_both_ways_leave_every_byte_of_it_whole(pair: Pair) -> None:
    ways = [(pair.a, pair.b), (pair.b, pair.a)]
    stream = "(for i in 1 2 3; do cat /tmp/sent; done)"
    sums = []
    for sender, receiver in ways:
        sender.run("dd if=/dev/urandom of=/tmp/sent bs=1M count=8 2> /dev/null", 60)
        sums.append(sender.run(f"{stream} | sha256sum", 60))
        receiver.take_a_copy()
    for sender, receiver in ways:
        sender.run(f"({stream} | nc {receiver.address} 5000 > /tmp/received; touch /tmp/done) > /dev/null 2>&1 &")
    pair.a.run(f"ping -i 0.02 -q {pair.b.address} > /tmp/pings 2>&1 &")

    changes, deadline = 0, time.monotonic() + 200
    while changes < 2 * CHANGES or any("done" not in sender.run("ls /tmp") for sender, _ in ways):
        assert time.monotonic() < deadline, "the streams do not end"
        for number, (sender, _) in enumerate(ways):
            use(sender, 1 + (changes + 2 * number) % PAIRS)
        changes += 2

    assert [sender.run("cat /tmp/received") for sender, _ in ways] == sums
    pair.a.run("killall -INT ping; while pidof ping > /dev/null; do sleep 0.1; done")
    pings = re.search(r"(\d+) packets transmitted, (\d+) packets received", pair.a.run("cat /tmp/pings"))
    assert pings is not None
    # Frames in a transmitq that the guest disables drop as ring_disabled, and TCP sends them again.
    assert int(pings[2]) >= int(pings[1]) - changes
    reasons = {reason for port in pair.fwd.stats()["ports"].values() for reason, n in port["rx_dropped"].items() if n}
    assert reasons <= {"ring_disabled"}
    assert pair.fwd.warnings() == []
