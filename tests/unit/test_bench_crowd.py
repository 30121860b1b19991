"""The guests of the benches of a switch: who sends to whom, and that it gets there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.guest_crowd import PATTERNS, targets
from bench.rig import POLLED
from bench.switch_rig import switch_rig
from bench.switching import take_turn

SMALL = replace(POLLED, queue_size=256)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nobody_sends_to_itself_and_somebody_sends(pattern: str) -> None:
    whom = [targets(pattern, guest, 4) for guest in range(4)]
    assert all(guest not in others for guest, others in enumerate(whom))
    assert any(whom)


@pytest.mark.parametrize("pattern", ["mesh", "hub", "pair", "pairs", "many"])
def test_once_all_addresses_are_known_a_frame_goes_to_one_guest(pattern: str) -> None:
    with switch_rig(pattern, 4, settings=SMALL) as r:
        for _ in range(40):
            r.load.step()
            r.worker.step()
        copies, received = (sum(getattr(port.counters(), name) for port in r.ports) for name in ("copies", "rx_frames"))
        delivered = r.delivered()
        for _ in range(10):
            r.load.step()
            r.worker.step()
        now = [port.counters() for port in r.ports]
        assert sum(each.copies for each in now) == copies
        moved = sum(each.rx_frames for each in now) - received
        assert moved > 500
        assert 0 < r.delivered() - delivered <= moved


def test_a_flood_reaches_all_others_and_is_counted_as_often() -> None:
    with switch_rig("flood", 5, settings=SMALL) as r:
        r.load.step()
        r.worker.step()
        assert r.delivered() == 4 * r.ports[0].counters().rx_frames > 0


def test_guests_with_many_addresses_have_one_for_each_frame_of_their_rings() -> None:
    with switch_rig("many", 4, settings=SMALL) as r:
        for _ in range(40):
            r.load.step()
            r.worker.step()
        assert [r.table.counters(port)["entries"] for port in range(4)] == [256] * 4


def test_a_rate_is_of_frames_that_were_delivered_in_the_time_of_the_worker() -> None:
    with switch_rig("mesh", 2, settings=SMALL) as r:
        before = r.delivered()
        assert take_turn(r, 0.05).mpps > 0
        assert r.delivered() > before
