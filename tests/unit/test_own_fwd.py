"""demo and bench have a fwd of their own: it ends with them, however they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST


def ports_of(place: Path) -> list[Path]:
    return list(place.glob("fastvhost-*/*.sock"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("verb", ["demo", "bench"])
def test_who_is_told_to_end_leaves_no_forwarder_and_no_file(verb: str, number: signal.Signals) -> None:
    with short_dir() as place:
        process = subprocess.Popen(
            [*FASTVHOST, verb, "--seconds", "60"],
            env=ENVIRONMENT | {"TMPDIR": str(place)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 10
            while len(ports_of(place)) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(ports_of(place)) == 3
            process.send_signal(number)
            _, said = process.communicate(timeout=10)
            assert process.returncode == 1
            assert f"fastvhost: ended by {number.name} before it was done" in said
            assert ports_of(place) == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert not list(place.glob("fastvhost-*"))
