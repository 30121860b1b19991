"""fwd as the client of a QEMU that listens: QEMU starts later, ends and starts again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.pair import Pair
from bench.guests.waits import MAX_WAIT

BACK_WITHIN = MAX_WAIT


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[Pair]:
    """Pair starts fwd first, the guests after it."""
    with Pair(place, a={"server": True}) as pair:
        yield pair


def test_qemu_that_listens_later_than_fwd_is_found(pair: Pair) -> None:
    pair.b.wait_answer(pair.a, BACK_WITHIN)
    assert pair.a.ping(pair.b, 100) == 100
    assert pair.fwd.warnings() == []


def test_qemu_that_listens_is_found_again_after_its_restart(pair: Pair) -> None:
    before = pair.b.boot_id()

    pair.a.kill()
    guest = pair.start_guest(pair.a).wait_ready()

    pair.b.wait_answer(guest, BACK_WITHIN)
    assert guest.ping(pair.b, 100) == 100
    assert pair.b.boot_id() == before


def test_fwd_that_is_killed_finds_the_listening_qemu_again(pair: Pair) -> None:
    before = pair.a.boot_id(), pair.b.boot_id()

    pair.fwd.kill()
    pair.start_fwd()

    pair.b.wait_answer(pair.a, BACK_WITHIN)
    assert (pair.a.boot_id(), pair.b.boot_id()) == before
