"""Guests and fwd are restarted and killed; traffic goes on soon, and the other guest is not affected otherwise.

Soon is about a second on an idle machine, from when the guest's shell answers, or fwd was started.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.fwd import ENVIRONMENT
from bench.guests.pair import Pair
from bench.guests.waits import MAX_WAIT, wait_until

BACK_WITHIN = MAX_WAIT


AS_BEFORE = """
from fastvhost.control import records
from fastvhost.backend.record import RecordError
from fastvhost.vhostuser import offer

def keep(*_, **__):
    raise RecordError("it is of before")

records.keep = keep
usual = offer.offered_features
offer.offered_features = lambda *words: usual(*words) | offer.WITHDRAWN
"""
"""Makes a fwd behave like an earlier version; Python reads it at its start."""


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[Pair]:
    """Guests that booted under an earlier version of fwd, which offered RING_RESET and kept no record."""
    before = place / "before"
    before.mkdir()
    (before / "sitecustomize.py").write_text(AS_BEFORE)
    with Pair(place, prefix=["env", f"PYTHONPATH={before}:{ENVIRONMENT['PYTHONPATH']}"]) as pair:
        assert "RING_RESET" in pair.fwd.wait_log("port a: features .*")[0]
        pair.fwd.stop()
        pair.start_fwd()
        pair.b.wait_answer(pair.a, BACK_WITHIN)
        yield pair


def test_guests_that_have_a_bit_of_before_are_served_by_a_fwd_that_no_longer_offers_it(pair: Pair) -> None:
    assert "RING_RESET" in pair.fwd.wait_log("port a: features .*")[0]
    pair.fwd.wait_log("port a: the front-end left when it knew the features")
    for name in "ab":
        pair.fwd.wait_log(f"port {name}: the guest has RING_RESET from an earlier fwd")
    assert other_warnings(pair) == []


def other_warnings(pair: Pair) -> list[str]:
    """Warnings other than that a guest has features of the earlier fwd."""
    return [line for line in pair.fwd.warnings() if "the guest has RING_RESET from an earlier fwd" not in line]


@pytest.fixture(autouse=True)
def _traffic(pair: Pair) -> Iterator[None]:
    """Both guests ping each other all the time, so that frames are in flight when something is killed."""
    assert pair.a.ping(pair.b, 3) == 3
    for guest, other in ((pair.a, pair.b), (pair.b, pair.a)):
        guest.run(f"ping -A -q {other.address} > /dev/null 2>&1 &")
    yield
    for guest in (pair.a, pair.b):
        guest.run("killall -q ping; true")
    assert pair.a.ping(pair.b, 100) == 100


def test_a_guest_reboots(pair: Pair) -> None:
    before = pair.a.boot_id(), pair.b.boot_id()

    pair.a.reboot()
    pair.a.wait_ready()
    pair.b.wait_answer(pair.a, BACK_WITHIN)

    assert pair.a.boot_id() != before[0]
    assert pair.b.boot_id() == before[1]


def test_a_guest_is_killed_and_started_anew(pair: Pair) -> None:
    before = pair.b.boot_id()

    pair.a.kill()
    pair.fwd.wait_log("port a: .*disconnected")
    guest = pair.start_guest(pair.a).wait_ready()
    pair.b.wait_answer(guest, BACK_WITHIN)

    assert pair.b.boot_id() == before


def test_a_guest_is_paused_and_goes_on(pair: Pair) -> None:
    # QEMU stops fwd's rings for the pause, and starts them again where they were.
    before = pair.a.boot_id(), pair.b.boot_id()

    for _ in range(3):
        pair.a.monitor("stop")
        pair.fwd.wait_log("port a: rings stopped")
        time.sleep(0.3)
        pair.a.monitor("cont")
        pair.b.wait_answer(pair.a, BACK_WITHIN)

    assert (pair.a.boot_id(), pair.b.boot_id()) == before
    assert other_warnings(pair) == []


def test_fwd_is_killed_and_started_again(pair: Pair) -> None:
    before = pair.a.boot_id(), pair.b.boot_id()

    pair.fwd.kill()
    pair.start_fwd()
    pair.a.wait_answer(pair.b, BACK_WITHIN)

    assert (pair.a.boot_id(), pair.b.boot_id()) == before
    assert other_warnings(pair) == []


def test_a_tcp_copy_survives_a_killed_fwd(pair: Pair) -> None:
    pair.a.run("dd if=/dev/urandom of=/tmp/sent bs=1M count=64 2>&1", 60)
    pair.b.take_a_copy()
    pair.a.run(f"(nc {pair.b.address} 5000 < /tmp/sent > /tmp/received; touch /tmp/done) > /dev/null 2>&1 &")
    wait_until("the copy is under way", MAX_WAIT, lambda: pair.fwd.stats()["ports"]["a"]["rx_bytes"] > 4 << 20)

    pair.fwd.kill()
    pair.start_fwd()

    # After the data b answers with their checksum.
    received = pair.a.run("until [ -e /tmp/done ]; do sleep 0.2; done; cat /tmp/received", 60)
    assert received == pair.a.run("sha256sum < /tmp/sent", 60)
