"""A port whose guest's memory keeps workers waiting: its front-end goes, and none is taken for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend import back_off
from fastvhost.backend.back_off import BackOff
from fastvhost.vhostcuse.ioctls import IoctlNumber
from fastvhost.vhostuser.message import Request
from tests.frontend import Frontend
from tests.unit import test_cuse_service
from tests.unit.fake_port import FakeMapping
from tests.unit.service_rig import Rig, run_a_ring, until
from tests.unit.session_bench import Clock

WAIT = 0.4


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "FIRST", WAIT)


def test_a_logged_wait_ends_no_connection(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    rig.service.memory_holds("worker3", 0.0123, too_much=False)
    until(lambda: "the guest's memory kept worker3 waiting for 12 ms; " in caplog.text)
    assert "port a: the guest's memory" in caplog.text
    assert "mem-lock=on" in caplog.text
    assert frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert "refused_for_seconds" not in rig.service.describe()
    frontend.close()


def test_the_front_end_is_closed_and_the_next_one_is_taken_once_the_wait_is_over(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    frontend = rig.frontend()
    run_a_ring(frontend)
    start = time.monotonic()
    rig.service.memory_holds("worker3", 0.51, too_much=True)
    assert frontend.wait_closed()
    rig.service.memory_holds("worker3", 0.52, too_much=True)  # of the same front-end, said a little later
    after = rig.frontend()
    assert after.ask_u64(Request.GET_QUEUE_NUM) == 1  # it waited in the socket's queue
    assert time.monotonic() - start >= WAIT
    after.close()
    assert caplog.text.count("waiting for 0.5 of the last 5 s") == 1
    assert f"no front-end is taken for {WAIT} s" in caplog.text


def test_show_tells_how_long_a_front_end_is_not_taken(rig: Rig) -> None:
    clock = Clock()
    rig.service._back_off = BackOff(clock)
    rig.service.memory_holds("worker3", 0.51, too_much=True)
    until(lambda: rig.service.describe().get("refused_for_seconds") == pytest.approx(WAIT))
    clock.now += WAIT / 2
    assert rig.service.describe()["refused_for_seconds"] == pytest.approx(WAIT / 2)
    clock.now += WAIT
    assert "refused_for_seconds" not in rig.service.describe()


def test_a_front_end_is_closed_while_the_worker_is_held_and_its_memory_is_released_later(rig: Rig) -> None:
    mappings, frontend = FakeMapping.open, rig.frontend()
    run_a_ring(frontend)
    rig.port.worker_stuck = True
    rig.service.memory_holds("worker3", 0.51, too_much=True)
    assert frontend.wait_closed()
    time.sleep(0.1)
    assert FakeMapping.open == mappings + 1
    rig.port.worker_stuck = False
    until(lambda: FakeMapping.open == mappings)


def test_a_client_does_not_connect_again_before_that(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, mode="client")
    frontend = Frontend.listen(path)
    run_a_ring(frontend)
    start = time.monotonic()
    rig.service.memory_holds("worker3", 0.51, too_much=True)
    assert frontend.wait_closed()
    path.unlink()
    again = Frontend.listen(path)
    assert again.ask_u64(Request.GET_QUEUE_NUM) == 1
    assert time.monotonic() - start >= WAIT
    frontend.close()
    again.close()
    rig.close()


@pytest.fixture
def cuse() -> Iterator[test_cuse_service.Rig]:
    rig = test_cuse_service.Rig()
    yield rig
    rig.close()


def test_the_owner_of_a_device_file_loses_it_and_requests_wait(cuse: test_cuse_service.Rig) -> None:
    handle = cuse.kernel.open()
    assert cuse.kernel.ioctl(handle, IoctlNumber.SET_OWNER) == (0, b"")
    start = time.monotonic()
    cuse.service.memory_holds("worker3", 0.51, too_much=True)
    until(lambda: cuse.state() == "listening")
    assert cuse.kernel.ioctl(handle, IoctlNumber.SET_OWNER) == (0, b"")
    assert time.monotonic() - start >= WAIT


def test_show_tells_that_of_a_device_file_too(cuse: test_cuse_service.Rig) -> None:
    cuse.service._back_off = BackOff(Clock())
    cuse.service.memory_holds("worker3", 0.51, too_much=True)
    until(lambda: cuse.service.describe().get("refused_for_seconds") == pytest.approx(WAIT))


def test_held_memory_may_be_reported_while_the_port_stops(rig: Rig) -> None:
    stopping = threading.Event()

    def say() -> None:
        while not stopping.is_set():
            rig.service.memory_holds("worker3", 0.51, too_much=True)

    thread = threading.Thread(target=say)
    thread.start()
    rig.service.stop(MAX_WAIT)
    stopping.set()
    thread.join()
    assert rig.service.defects == 0
