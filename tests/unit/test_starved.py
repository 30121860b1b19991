"""How long a receive queue was without buffers, as `show` and the metrics tell it."""

from __future__ import annotations

import time

import pytest

from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, Rig, frame, rig

FORMATS = {"split": F_VERSION_1, "packed": F_VERSION_1 | F_RING_PACKED, "mergeable": F_VERSION_1 | NET_F_MRG_RXBUF}
PAUSE = 0.05


def starved(r: Rig) -> float:
    return r.b.port.queue_state(0).starved_seconds


def look(r: Rig, posted: int = 0) -> None:
    r.b.driver.post(posted)
    r.a.driver.send(frame(1))
    r.settle(10)


@pytest.mark.parametrize("features", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("hold", [True, False], ids=["hold", "drop"])
def test_a_receiveq_is_starved_from_one_frame_without_room_to_the_next(features: int, hold: bool) -> None:
    with rig(features=features, hold=hold) as r:
        look(r, posted=1)
        assert starved(r) == 0
        start = time.monotonic()
        look(r)
        time.sleep(PAUSE)
        look(r)
        assert PAUSE <= starved(r) <= time.monotonic() - start
        assert r.a.port.queue_state(0).starved_seconds == 0


def test_time_in_which_nobody_sent_does_not_count_once_there_is_room() -> None:
    with rig(hold=False) as r:
        look(r)
        before = starved(r)
        time.sleep(PAUSE)
        look(r, posted=1)
        assert starved(r) == before
        time.sleep(PAUSE)
        look(r)
        assert starved(r) == before


def test_a_queue_that_starts_anew_has_been_starved_as_long_as_before() -> None:
    with rig(hold=False) as r:
        look(r)
        time.sleep(PAUSE)
        look(r)
        before = starved(r)
        r.b.port.stop_queue(0)
        time.sleep(PAUSE)
        r.b.start(0)
        assert starved(r) == before >= PAUSE
        look(r)
        assert starved(r) == before


def test_a_visit_s_budget_that_ends_a_delivery_is_no_want_of_room() -> None:
    """64 KiB go to buffers of 256 bytes: more pieces than a visit may fill. The rest goes in the next one."""
    with rig(features=F_VERSION_1 | NET_F_MRG_RXBUF, size=1024) as r:
        r.b.driver.post(1000, bytes=256)
        for n in range(3):
            r.a.driver.send(frame(n, 60_000))
        assert r.worker.step() < 3
        for _ in range(10):
            r.worker.step()
            time.sleep(PAUSE / 10)
        assert len(r.b.driver.receive_all()) == 3
        assert starved(r) == 0
