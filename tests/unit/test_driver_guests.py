"""Guests through the data plane and through a real fwd: everything sent arrives, in every shape, and stops cleanly."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from bench.rig import POLLED, USUAL_FEATURES, rig
from fastvhost.driver import ram
from fastvhost.driver.frontend import Feature
from fastvhost.driver.guests import IMIX, Direction, GuestCounters, Guests, GuestsError, PairSettings


@pytest.mark.parametrize("sizes", [(60,), (1518,), (9000,), (65000, 60), IMIX])
@pytest.mark.parametrize(("pieces", "indirect"), [(1, False), (3, False), (4, True)])
@pytest.mark.parametrize(
    ("queue_size", "ring"),
    [(64, Feature(0)), (1024, Feature(0)), (64, Feature.RING_PACKED), (1000, Feature.RING_PACKED)],
)
def test_whole_frames_pass_the_data_plane_both_ways(
    queue_size: int, ring: Feature, pieces: int, indirect: bool, sizes: tuple[int, ...]
) -> None:
    features = USUAL_FEATURES | ring | (Feature.INDIRECT_DESC if indirect else Feature(0))
    settings = replace(POLLED, sizes=sizes, queue_size=queue_size, pieces=pieces, content="whole")
    with rig(settings, features=features) as r:
        while r.devices[0].sent[0] <= queue_size:    # every slot once, some twice
            r.load.step()
            r.worker.step()
        r.load.drain()
        for _ in range(3000):    # frames of 65000 bytes: one a round, where a ring has room for no more
            r.load.step()
            r.worker.step()
        for sender, receiver in (r.devices, r.devices[::-1]):
            assert receiver.received == (*sender.sent, 0, 0, 0, 0)
            assert sender.unreturned == 0
            assert sender.sent[0] > queue_size - 64


@pytest.mark.parametrize("features", [Feature(0), Feature.VERSION_1], ids=["legacy", "not mergeable"])
def test_whole_frames_pass_without_mergeable_buffers(features: Feature) -> None:
    with rig(replace(POLLED, sizes=(9000, 60), queue_size=64, content="whole"), features=features) as r:
        for _ in range(50):
            r.load.step()
            r.worker.step()
        assert r.devices[1].received[0] > 500
        assert r.devices[1].received[2:] == (0, 0, 0, 0)


def test_frames_that_the_data_plane_dropped_are_missing_ones() -> None:
    with rig(replace(POLLED, queue_size=64)) as r:
        for enabled in (True, False, True):
            r.ports[1].set_enabled(0, enabled)
            for _ in range(4):
                r.load.step()
                r.worker.step()
        r.load.step()
        dropped = r.ports[1].counters().tx_dropped["ring_disabled"]
        frames, *_, missing = r.devices[1].received
        assert dropped > 100
        assert missing == dropped
        assert frames == r.devices[0].sent[0] - 64 - dropped


@contextlib.contextmanager
def fwd(directory: Path, options: str = "") -> Iterator[tuple[str, str]]:
    """A forwarder as a process of its own. options: of both ports."""
    paths = [str(directory / name) for name in ("a.sock", "b.sock")]
    command = [sys.executable, "-m", "fastvhost", "fwd", "--control", str(directory / "control.sock")]
    command += ["--hold-timeout", "10s"]  # guests without a CPU for a while lose no frames
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *(word for path in paths for word in ("--port", path + options))], stdout=log, stderr=log
        )
    try:
        wait_until("fwd listens", MAX_WAIT, lambda: all(Path(path).exists() for path in paths) or process.poll())
        yield paths[0], paths[1]
    finally:
        process.terminate()
        assert process.wait(MAX_WAIT) == 0, (directory / "log").read_text()


def flood_for(guests: Guests, seconds: float) -> GuestCounters:
    guests.start()
    time.sleep(seconds)
    wait_until("a thousand frames each way", MAX_WAIT, lambda: both_ways(guests.counters()) > 1000)
    return guests.stop()


def both_ways(counters: GuestCounters) -> int:
    """Frames that arrived in the direction with fewer."""
    return min((way.frames for way in counters if way.sent_frames), default=0)


def nothing_wrong(way: Direction) -> bool:
    return way == Direction(way.frames, way.bytes, way.frames, way.bytes, 0, 0, 0, 0) and way.frames > 1000


def test_a_flood_through_a_real_fwd_loses_nothing() -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        both = flood_for(Guests(a, b, PairSettings(content="whole", sizes=IMIX)), 0.3)
        assert nothing_wrong(both.a_to_b)
        assert nothing_wrong(both.b_to_a)
        settings = PairSettings(both_ways=False, indirect=True, pieces=3, mergeable=False, queue_size=256)
        one = flood_for(Guests(a, b, settings), 0.2)
        assert nothing_wrong(one.a_to_b)
        assert one.b_to_a == Direction(*[0] * 8)


def test_counters_can_be_read_from_another_thread_and_never_run_ahead_of_themselves() -> None:
    with short_dir() as directory, fwd(directory) as (a, b), Guests(a, b) as guests:
        seen: list[GuestCounters] = []
        readers = [threading.Thread(target=lambda: seen.extend(guests.counters() for _ in range(300))) for _ in "12"]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert len(seen) == 600
        assert all(way.frames <= way.sent_frames for counters in seen for way in counters)
        assert all(counters.lost == counters.corrupt == 0 for counters in seen)


def test_latency_is_measured_before_a_load_and_after_it() -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        guests = Guests(a, b)
        before = guests.latency(0.2)
        guests.start()
        with pytest.raises(GuestsError, match="idle guests"):
            guests.latency(0.2)
        guests.stop_load()
        after = guests.latency(0.2)
        final = guests.stop()
        assert guests.stop() == final
        assert final.lost == final.corrupt == 0
    for latency in (before, after):
        assert latency.lost == 0
        assert latency.samples > 0
        assert 0 < latency.p50 <= latency.p99 <= latency.p999 <= latency.worst


class Interrupted(Exception):
    """An exception that a signal handler raises, as Python's own does at ^C."""


@pytest.mark.parametrize("under_load", [False, True])
def test_a_measurement_that_is_interrupted_ends_before_its_memory_goes(under_load: bool) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    with short_dir() as directory, fwd(directory) as (a, b):
        guests = Guests(a, b)
        guests.connect()
        before, threads = signal.signal(signal.SIGALRM, interrupt), threading.active_count()
        start = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Interrupted):
                (guests.latency_under_load if under_load else guests.latency)(4 * MAX_WAIT)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - start < MAX_WAIT
        wait_until("its threads have ended", MAX_WAIT, lambda: threading.active_count() <= threads)
        guests.stop()


def test_the_load_can_be_started_again() -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        guests = Guests(a, b, PairSettings(sizes=(1518,)))
        totals = []
        for _ in range(3):
            guests.start()
            before = guests.counters().frames
            wait_until("more frames", MAX_WAIT, lambda before=before: guests.counters().frames > before)
            totals.append(guests.stop_load().frames)
        assert 0 < totals[0] < totals[1] < totals[2]
        assert guests.stop().lost == 0
        with pytest.raises(GuestsError, match="stopped for good"):
            guests.start()


def test_a_back_end_killed_under_load_is_noticed_and_its_frames_are_lost() -> None:
    with short_dir() as directory:
        a, b = str(directory / "a.sock"), str(directory / "b.sock")
        process = subprocess.Popen(
            [sys.executable, "-m", "fastvhost", "fwd", "--port", a, "--port", b, "--control", str(directory / "c")],
            stderr=subprocess.DEVNULL,
        )
        try:
            guests = Guests(a, b)
            guests.start()
            wait_until("a thousand frames", MAX_WAIT, lambda: guests.counters().frames > 1000)
            assert guests.connected
        finally:
            process.kill()
            process.wait()
        # The helper process of fwd still has the connections, and closes them once it sees that fwd has ended.
        wait_until("the guests notice", MAX_WAIT, lambda: not guests.connected)
        final = guests.stop()
        assert final.frames > 1000
        assert final.lost == final.a_to_b.sent_frames + final.b_to_a.sent_frames - final.frames
        assert 0 < final.lost <= 2 * 1024


def test_guests_on_a_cpu_that_is_not_ours_are_refused_in_words() -> None:
    with pytest.raises(GuestsError, match="may not run on CPU 4095"):
        Guests("a", "b", PairSettings(core=4095))


def forbidden(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_guests_choose_any_cpu_where_a_sandbox_forbids_to_ask_which(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        monkeypatch.setattr(os, "sched_getaffinity", forbidden)
        assert flood_for(Guests(a, b, PairSettings(core=0)), 0.1).frames > 0


def test_guests_have_memory_where_a_sandbox_forbids_memfd_create(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        monkeypatch.setattr(os, "memfd_create", forbidden)
        assert flood_for(Guests(a, b), 0.1).frames > 0
    monkeypatch.setattr(ram, "SHARED_MEMORY", "/nowhere")
    with pytest.raises(MemoryError, match=r"memfd_create: Operation not permitted.*allow the system call"):
        ram.GuestRam(1 << 21)


def test_a_shape_that_cannot_be_is_refused_and_leaves_nothing_behind() -> None:
    with short_dir() as directory, fwd(directory) as (a, b):
        guests = Guests(a, b, PairSettings(queue_size=100))
        with pytest.raises(GuestsError, match="power of two"):
            guests.connect()
        with pytest.raises(GuestsError, match="frame sizes"):
            Guests(a, b, PairSettings(sizes=(59,))).connect()
        assert flood_for(Guests(a, b), 0.1).lost == 0
