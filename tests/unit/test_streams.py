"""Standard output and standard error that are full, not read, or not there: a forwarder does its work all the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.vhostuser.message import HEADER, Request, encode_request
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST

FEATURES_REPLY_BYTES = HEADER.size + 8
COMMAND = [*FASTVHOST, "fwd", "--port", "a.sock", "--port", "b.sock", "--control", "c.sock", "--stats-period", "0.1"]


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_dir() as path:
        yield path


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that takes nothing more, and that nobody reads."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(into, bytes(size))
        except BlockingIOError:
            pass
    os.set_blocking(into, True)
    yield into
    os.close(into)
    os.close(out)


@contextmanager
def running(directory: Path, stdout: int, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """A fwd that serves a front-end at a.sock, with these output streams."""
    process = subprocess.Popen(COMMAND, cwd=directory, env=ENVIRONMENT, stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + MAX_WAIT
        while not (directory / "b.sock").exists():
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as front_end:
            front_end.settimeout(MAX_WAIT)
            front_end.connect(str(directory / "a.sock"))
            front_end.sendall(encode_request(Request.GET_FEATURES))
            assert len(front_end.recv(FEATURES_REPLY_BYTES, socket.MSG_WAITALL)) == FEATURES_REPLY_BYTES
        time.sleep(0.4)  # figures are due, more than once
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def ends(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(MAX_WAIT)


def test_figures_that_nobody_reads_keep_it_neither_from_working_nor_from_ending(
    directory: Path, full_pipe: int
) -> None:
    with (directory / "log").open("wb") as log, running(directory, full_pipe, log.fileno()) as process:
        assert ends(process) == 0
    said = (directory / "log").read_text()
    assert said.count("standard output does not take them: nobody reads them") == 1
    assert said.endswith(" stopped\n")


def test_a_log_that_nobody_reads_keeps_it_neither_from_working_nor_from_ending(directory: Path, full_pipe: int) -> None:
    with running(directory, full_pipe, full_pipe) as process:
        assert ends(process) == 0
    assert list(directory.glob("*.sock")) == []


def test_a_log_that_is_read_again_tells_how_much_is_missing(directory: Path) -> None:
    out, into = os.pipe()
    filled = os.write(into, bytes(65536))
    with (directory / "figures").open("wb") as figures, running(directory, figures.fileno(), into) as process:
        while filled:
            filled -= len(os.read(out, filled))
        assert ends(process) == 0
    os.close(into)
    with os.fdopen(out, "rb") as log:
        said = log.read().decode().splitlines()
    assert "lines were left out here, nobody read them" in said[0]
    assert said[-1].endswith(" stopped")


def test_a_full_disk_under_its_figures_is_logged_once_and_ends_nothing(directory: Path) -> None:
    with (
        (directory / "log").open("wb") as log,
        Path("/dev/full").open("wb", buffering=0) as full,
        running(directory, full.fileno(), log.fileno()) as process,
    ):
        assert ends(process) == 0
    said = (directory / "log").read_text()
    assert said.count("No space left on device") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_a_stream_it_works_and_ends_as_with_one(directory: Path, closed: str) -> None:
    command = f"exec {' '.join(COMMAND)} 2>log {closed}"
    process = subprocess.Popen(["bash", "-c", command], cwd=directory, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + MAX_WAIT
        while not (directory / "b.sock").exists():
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)
        for number in (0, 1, 2):  # no socket and no memory has the number of a stream
            assert os.readlink(f"/proc/{process.pid}/fd/{number}").startswith(("/", "pipe:"))  # noqa: PTH115
        assert ends(process) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (directory / "log").read_text()


def test_a_full_disk_under_an_answer_is_one_line_and_exit_code_1() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*FASTVHOST, "--version"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == (
        "fastvhost: standard output: No space left on device; make room there, or write elsewhere\n"
    )
