"""Another user may write the directory of a socket and replaces it: by a link, by another file, by nothing.

fwd changes no file that it did not make, follows no link, goes on serving where it can, ends in time and starts again.
"""

from __future__ import annotations

import itertools
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from tests.hostile.backend import fastvhost
from tests.hostile.failing import Failing, build

SECRET = b"not for anybody else\n"
START_SECONDS = MAX_WAIT
OTHER_GROUP = 65534
NUMBERS = itertools.count()


class Victim:
    """A file of somebody's, and whether it is as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(SECRET)
        path.chmod(0o600)
        self._was = self._now()

    def _now(self) -> tuple[int, int, int, bytes]:
        found = self.path.stat()
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, self.path.read_bytes()

    def is_as_it_was(self) -> bool:
        return self._now() == self._was


@pytest.fixture
def secret(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "secret")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that is fwd's own, as far as it can tell."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


class Running:
    """A fwd with the port `replaced` and another one."""

    def __init__(self, place: Path, start: Callable[[list[str], Path], subprocess.Popen[bytes]] = fastvhost) -> None:
        self.port, self.other, self.control = place / "replaced.sock", place / "other.sock", place / "control"
        self.log_path = place.parent / f"log{next(NUMBERS)}"
        words = ["fwd", "--port", str(self.port), "--port", str(self.other), "--control", str(self.control)]
        words += ["--socket-group", str(OTHER_GROUP)] if os.geteuid() == 0 else []
        self.process = start(words, self.log_path)

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_up_or_ended(self) -> bool:
        """Whether it is up."""
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and "port other: listening" not in self.log():
            assert time.monotonic() < deadline, f"neither up nor ended: {self.log()}"
            time.sleep(0.01)
        return self.process.poll() is None

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(MAX_WAIT) == 0, self.log()
        assert "Traceback" not in self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(MAX_WAIT)


@pytest.fixture
def running(place: Path) -> Iterator[Running]:
    running = Running(place)
    try:
        assert running.wait_up_or_ended(), running.log()
        yield running
    finally:
        running.kill()


def test_a_socket_that_becomes_a_link_between_bind_and_chmod(secret: Victim, place: Path, tmp_path: Path) -> None:
    own = Failing(build(tmp_path), tmp_path / "board", FAILING_REPLACE=str(secret.path))
    running = Running(place, own.start)
    try:
        running.wait_up_or_ended()
        assert secret.is_as_it_was(), "mode, owner or content of a file behind a link changed"
        if running.process.poll() is None:
            running.end()
        assert "Traceback" not in running.log()
        assert secret.is_as_it_was()
    finally:
        running.kill()


def test_a_link_in_place_of_a_socket_that_is_served(secret: Victim, running: Running) -> None:
    running.port.unlink()
    running.port.symlink_to(secret.path)
    running.end()
    assert secret.is_as_it_was()
    assert running.port.is_symlink(), "what another one put there was removed"


def test_another_file_in_place_of_the_control_socket(running: Running) -> None:
    running.control.rename(running.control.with_name("taken"))
    running.control.write_text("somebody else's")
    running.end()
    assert running.control.read_text() == "somebody else's"


def test_sockets_that_were_renamed_and_are_made_anew(place: Path, running: Running) -> None:
    running.port.rename(place / "taken")
    running.other.unlink()
    running.end()
    again = Running(place)
    try:
        assert again.wait_up_or_ended(), again.log()
        again.end()
    finally:
        again.kill()


@pytest.mark.parametrize("dangling", [False, True])
def test_a_start_where_a_link_stands_says_so_and_touches_nothing(secret: Victim, place: Path, dangling: bool) -> None:
    target = secret.path.with_name("nothing") if dangling else secret.path
    (place / "replaced.sock").symlink_to(target)
    running = Running(place)
    try:
        assert not running.wait_up_or_ended(), "it serves on a path that is a link"
        assert running.process.returncode in (1, 2)
        assert "replaced.sock" in running.log()
        assert "Traceback" not in running.log()
        assert secret.is_as_it_was()
        assert not secret.path.with_name("nothing").exists()
        assert (place / "replaced.sock").is_symlink()
    finally:
        running.kill()
