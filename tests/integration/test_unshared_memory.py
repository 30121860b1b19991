"""The most common mistake with vhost-user: QEMU's memory is not shared. fwd says so, with options to paste."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.pair import Pair

SAID_WITHIN = 6.0
"""Seconds, on a machine that is not overloaded."""


@pytest.fixture(scope="module")
def ready(place: Path) -> Iterator[tuple[Pair, float]]:
    """Guest a has QEMU's default memory, guest b a file that is not shared. Also when both had started."""
    with Pair(place, a={"memory": "anonymous"}, b={"memory": "private"}) as pair:
        yield pair, time.monotonic()


@pytest.mark.parametrize("port", ["a", "b"])
def test_a_guest_whose_memory_is_not_shared_gets_the_remedy_in_words(ready: tuple[Pair, float], port: str) -> None:
    pair, _ = ready
    said = pair.fwd.wait_log(rf"warning: port {port}: .*share=on.*")[0]
    assert "memory-backend-memfd" in said
    assert "-machine memory-backend=" in said


def test_memory_that_is_not_shared_is_reported_once(ready: tuple[Pair, float]) -> None:
    pair, since = ready
    time.sleep(max(0.0, since + 2 * SAID_WITHIN - time.monotonic()))
    for port in ("a", "b"):
        assert len([line for line in pair.fwd.warnings() if f"port {port}:" in line]) == 1
