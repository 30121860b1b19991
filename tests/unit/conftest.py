"""Fixtures of the unit tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastvhost.dataplane.notify  # noqa: F401 - has file descriptors of its own, which are to be there before we count
from bench.guests.short_dir import short_dir
from fastvhost.dataplane.guest_memory import Mapping
from tests.unit.fake_port import FakeMapping
from tests.unit.service_rig import Rig
from tests.unit.session_bench import Bench, open_fds


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_from_other_modules() -> None:
    """Collect garbage of earlier tests: it may hold file descriptors, and close them while a test counts."""
    gc.collect()
    fd = os.memfd_create("the first")
    os.ftruncate(fd, 4096)
    Mapping(fd, 0, 4096, 0, 0).close()  # the first one of a process opens a file that stays
    os.close(fd)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A session with a fake port. Whatever the test does to it, nothing is left open afterwards."""
    before, mappings = open_fds(), FakeMapping.open
    bench = Bench()
    yield bench
    bench.close()
    assert open_fds() == before
    assert FakeMapping.open == mappings


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not tmp_path: that may be too long for a socket."""
    with short_dir() as path:
        yield path


@pytest.fixture
def rig(directory: Path) -> Iterator[Rig]:
    """A service on a.sock with a fake port. Whatever the test does to it, nothing is left open afterwards."""
    before, mappings = open_fds(), FakeMapping.open
    rig = Rig(directory / "a.sock")
    yield rig
    rig.close()
    assert rig.service.defects == 0
    assert open_fds() == before
    assert FakeMapping.open == mappings
