"""demo and bench start a fwd of their own: it ends when they end, however they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.cli.own_fwd import forwarder
from tests.frontend import Guest
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST
from tests.unit.test_children import runs


def ports_of(place: Path) -> list[Path]:
    return list(place.glob("fastvhost-*/*.sock"))


@contextlib.contextmanager
def running(verb: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    """One of them, once its fwd listens. At the end all of its processes are ended."""
    process = subprocess.Popen(
        [*FASTVHOST, verb, "--seconds", "60"],
        env=ENVIRONMENT | {"TMPDIR": str(place)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_until("its fwd listens", MAX_WAIT, lambda: len(ports_of(place)) == 3)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("verb", ["demo", "bench"])
def test_a_killed_demo_or_bench_leaves_no_forwarder(verb: str) -> None:
    with short_dir() as place, running(verb, place) as process:
        (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        assert runs(child)
        process.kill()
        wait_until("its fwd has died", MAX_WAIT, lambda: not runs(child))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("verb", ["demo", "bench"])
def test_who_is_told_to_end_leaves_no_forwarder_and_no_file(verb: str, number: signal.Signals) -> None:
    with short_dir() as place:
        with running(verb, place) as process:
            process.send_signal(number)
            _, said = process.communicate(timeout=MAX_WAIT)
            assert process.returncode == 1
            assert f"fastvhost: ended by {number.name} before it was done" in said
            assert ports_of(place) == []
        assert not list(place.glob("fastvhost-*"))


def test_a_guest_that_does_not_run_for_a_while_loses_no_frame() -> None:
    with (
        short_dir() as place,
        forwarder(place, None, place / "log"),
        Guest.boot(place / "a.sock") as sender,
        Guest.boot(place / "b.sock") as receiver,
    ):
        # A first frame gets through: both have been seen by then.
        receiver.net.post(kick=receiver.kicks[0])
        sender.net.send(bytes(60), kick=sender.kicks[1])
        receiver.net.receive(repost=False)
        sender.net.send(bytes(60), kick=sender.kicks[1])
        time.sleep(0.4)  # several times as long as fwd holds a frame unless it is told otherwise
        receiver.net.post(kick=receiver.kicks[0])
        assert receiver.net.receive() == bytes(60)
