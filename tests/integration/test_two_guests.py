"""Two QEMU guests talk through fwd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.pair import Pair

MIB = 1 << 20
COPIED = 64 * MIB


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[Pair]:
    with Pair(place) as pair:
        yield pair


def moved(pair: Pair, before: dict[str, Any]) -> dict[str, dict[str, int]]:
    """How much each port's counters grew."""
    counted = ("rx_frames", "rx_bytes", "tx_frames", "tx_bytes")
    now = pair.fwd.stats()
    return {
        name: {key: now["ports"][name][key] - before["ports"][name][key] for key in counted} for name in now["ports"]
    }


def test_a_hundred_of_a_hundred_pings_are_answered(pair: Pair) -> None:
    before = pair.fwd.stats()

    assert pair.a.ping(pair.b, 100) == 100

    # As fwd sees them: a's requests are received from a and transmitted to b, the answers the other way.
    after = moved(pair, before)
    assert after["a"]["rx_frames"] >= 100
    assert after["a"]["tx_frames"] >= 100
    # 14 bytes of Ethernet, 20 of IP, 8 of ICMP, 56 of data.
    assert after["a"]["rx_bytes"] >= 100 * 98
    # No frame is lost or invented; one more may have passed between the reading of two counters.
    assert after["b"]["tx_frames"] == pytest.approx(after["a"]["rx_frames"], abs=2)
    assert after["a"]["tx_frames"] == pytest.approx(after["b"]["rx_frames"], abs=2)


def test_frames_larger_than_a_receive_buffer_arrive_whole(pair: Pair) -> None:
    before = pair.fwd.stats()

    assert pair.a.ping(pair.b, 20, bytes=8000) == 20
    assert pair.b.ping(pair.a, 20, bytes=8000) == 20

    # One frame each, not fragments: the guests' MTU is 9000.
    assert moved(pair, before)["a"]["rx_frames"] < 50


@pytest.mark.parametrize("sender_is_a", [True, False], ids=["a to b", "b to a"])
def test_a_copy_of_64_mib_by_tcp_arrives_unchanged(pair: Pair, sender_is_a: bool) -> None:
    sender, receiver = (pair.a, pair.b) if sender_is_a else (pair.b, pair.a)
    before = pair.fwd.stats()

    sent, received = sender.copy_to(receiver, COPIED // MIB)

    assert sent == received
    after = moved(pair, before)
    assert COPIED < after[sender.name]["rx_bytes"] < 1.1 * COPIED
    assert COPIED < after[receiver.name]["tx_bytes"] < 1.1 * COPIED


def test_counters_and_log_of_it_all_show_nothing_odd(pair: Pair) -> None:
    assert pair.a.ping(pair.b, 3) == 3

    assert pair.fwd.warnings() == []
    stats = pair.fwd.stats()
    for port in stats["ports"].values():
        assert port["link"] == "up"
        assert not any(port["rx_dropped"].values())
        # A guest that still boots receives nothing; after that no frame is lost.
        starting = ("link_down", "ring_disabled")
        assert all(reason in starting or not count for reason, count in port["tx_dropped"].items())
        # A polling worker is not kicked, but notifies its guests.
        assert port["calls"] > 0
    for worker in stats["workers"].values():
        assert 0 < worker["busy_rounds"] < worker["rounds"]
    for step in ("listening", "connected", "features", "memory", "rings", "first packet"):
        pair.fwd.wait_log(f"port a: .*{step}")
        pair.fwd.wait_log(f"port b: .*{step}")
