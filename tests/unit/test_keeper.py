"""Files whose last close waits: neither a port nor the end of fwd waits, since fwd never makes the last close."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.backend import foreign_files, keeper, quota
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.keeper_process import BATCH, CLOSERS_OF_A_PORT, CROWD
from tests.frontend import U64, Closed, Frontend, Request
from tests.held_files import Held
from tests.unit.service_rig import until

ROOT = Path(__file__).parents[2]


def state(pid: int) -> str:
    """The state of a process; Z for a zombie; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def gone(pid: int) -> bool:
    return state(pid) in ("", "Z")


def links(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return found


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def closers(keeper: int) -> list[int]:
    """The processes that close files: a child of the keeper's, the forker, forks them."""
    return [closer for forker in children(keeper) for closer in children(forker)]


# The process by itself


@pytest.fixture
def helper() -> Iterator[keeper.Keeper]:
    quota.use(quota.Quota())
    with keeper.started() as started:
        assert started is not None
        yield started
    os.waitpid(started.pid, 0)


def kept(helper: keeper.Keeper, name: str) -> int:
    return sum(name in link for link in links(helper.pid))


def test_the_keeper_closes_its_duplicate_after_fwd_closed_its_own(helper: keeper.Keeper) -> None:
    fds = [os.eventfd(0), os.memfd_create("ours"), *os.pipe(), socket.socket().detach()]
    foreign_files.keep(fds)
    until(lambda: kept(helper, "eventfd") == 1 and kept(helper, "memfd:ours") == 1 and kept(helper, "pipe") == 2)
    foreign_files.close_all(fds)
    until(lambda: links(helper.pid).count("/dev/null") + kept(helper, "socket") == len(links(helper.pid)))
    assert fds == []


def test_the_keeper_has_no_descriptors_but_those_it_is_given(helper: keeper.Keeper) -> None:
    until(lambda: state(helper.pid) == "S" and len(links(helper.pid)) == 5)
    assert [link.split(":")[0] for link in sorted(links(helper.pid))] == ["/dev/null"] * 3 + ["socket"] * 2
    assert os.readlink(f"/proc/{helper.pid}/cwd") == "/"  # noqa: PTH115
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper.pid, number)
    foreign_files.keep([fd := os.memfd_create("later")])
    until(lambda: kept(helper, "later") == 1)
    foreign_files.close(fd)


def test_a_mapping_s_file_is_kept_until_the_mapping_is_gone(helper: keeper.Keeper) -> None:
    fd = os.memfd_create("ram")
    pin = foreign_files.Pin(fd)
    foreign_files.close(fd)
    until(lambda: kept(helper, "ram") == 1)
    pin.release()
    pin.release()
    until(lambda: kept(helper, "ram") == 0)


def test_the_keeper_does_not_keep_a_file_with_a_path(helper: keeper.Keeper, tmp_path: Path) -> None:
    """Any close of a file on FUSE may wait, and so would each child, which closes what it inherited."""
    fd = os.open(tmp_path, os.O_RDONLY)
    foreign_files.keep([fd, barrier := os.eventfd(0)])
    until(lambda: kept(helper, "eventfd") == 1)
    assert kept(helper, str(tmp_path)) == 0
    foreign_files.close_all([fd, barrier])


def test_what_cannot_be_let_go_takes_a_few_children_and_what_others_sent_is_let_go_all_the_same(
    helper: keeper.Keeper,
) -> None:
    with Held(20) as held:
        for fd in list(held):
            foreign_files.close(fd)
        quota.use(quota.Quota())  # another port
        fd = os.memfd_create("honest")
        foreign_files.keep([fd])
        foreign_files.close(fd)
        until(lambda: kept(helper, "honest") == 0)
        until(lambda: all(kept_by(child, "honest") == 0 for child in closers(helper.pid)))
        until(lambda: stuck(helper.pid))
        assert stuck(helper.pid) <= CLOSERS_OF_A_PORT
    until(lambda: kept(helper, "eventfd") == 0)
    until(lambda: not stuck(helper.pid))


def stuck(pid: int) -> int:
    """Its closers in state D, which cannot be killed."""
    return sum(state(child) == "D" for child in closers(pid))


def kept_by(pid: int, name: str) -> int:
    return sum(name in link for link in links(pid)) if not gone(pid) else 0


def test_a_port_whose_files_pile_up_takes_no_more_until_they_are_gone(helper: keeper.Keeper) -> None:
    with Held(CROWD + 80) as held:
        for at in range(0, len(held), 16):
            foreign_files.close_all(held[at : at + 16])
        until(lambda: crowded(helper))
        with pytest.raises(ProtocolError, match="cannot be closed"):
            foreign_files.check_room()
    until(lambda: not crowded(helper))
    foreign_files.check_room()


def test_a_file_that_cannot_be_closed_waits_with_its_own_batch_alone(helper: keeper.Keeper) -> None:
    """However slow a closer is to start: it was given nothing but its batch, and inherited none of these files."""
    kept_files = [os.memfd_create(f"kept-{n}") for n in range(3)]
    foreign_files.keep(kept_files)
    with Held(3 * BATCH) as held:
        for at in range(0, len(held), BATCH):
            foreign_files.close_all(held[at : at + BATCH])
        until(lambda: stuck(helper.pid) == 3)
        files = [sum("eventfd" in link or "kept" in link for link in links(closer)) for closer in closers(helper.pid)]
        assert sorted(files)[-3:] == [BATCH - 1] * 3  # the one that is being closed has no number any more
        assert sum(files) == 3 * (BATCH - 1)
    foreign_files.close_all(kept_files)
    until(lambda: kept(helper, "kept") == 0)


def test_a_keeper_that_can_make_no_closers_any_more_ends(helper: keeper.Keeper) -> None:
    until(lambda: children(helper.pid))
    (forker,) = children(helper.pid)
    os.kill(forker, signal.SIGKILL)
    foreign_files.keep([fd := os.eventfd(0)])
    foreign_files.close(fd)
    until(lambda: gone(helper.pid))


class Said(set[int]):
    """Which ports are crowded now; and each that ever was."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: list[int] = []

    def add(self, port: int) -> None:
        self.ever.append(port)
        super().add(port)


def test_a_guest_of_128_queue_pairs_that_leaves_is_no_crowd_however_late_the_helper_is(helper: keeper.Keeper) -> None:
    """Its files are closed as soon as another process ends its hold."""
    helper._crowded = said = Said()
    fds = [os.eventfd(0) for _ in range(3 * 256)]
    foreign_files.keep(fds)
    os.kill(helper.pid, signal.SIGSTOP)
    try:
        foreign_files.close_all(fds)
    finally:
        os.kill(helper.pid, signal.SIGCONT)
    until(lambda: kept(helper, "eventfd") == 0)
    helper.look()
    assert said.ever == []


def crowded(helper: keeper.Keeper) -> bool:
    helper.look()
    return helper.crowded(quota.current().number)


def test_without_the_keeper_files_are_closed_in_place_and_that_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with keeper.started() as helper:
        assert helper is not None
        foreign_files.keep([held := os.eventfd(0)])
        os.kill(helper.pid, signal.SIGKILL)
        until(lambda: gone(helper.pid))
        for fd in (held, os.eventfd(0), os.memfd_create("late")):
            foreign_files.close(fd)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        helper.look()
    assert [record.message for record in caplog.records if "fv-keeper" in record.message][1:] == []
    assert "closed in place" in caplog.text


# fwd with the keeper


class Fwd:
    def __init__(self, directory: Path) -> None:
        self.log = directory / "log"
        self.path = directory / "a.sock"
        command = [sys.executable, "-m", "fastvhost", "fwd", "--control", str(directory / "control")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.path), "--port", str(directory / "b.sock")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip
        until(lambda: (directory / "b.sock").exists() and "b.sock" in self.log.read_text())
        # By then fwd has opened all its own files: those for the state of its workers' threads are the last.
        until(lambda: any(link.endswith("/stat") for link in links(self.process.pid)))
        (self.keeper,) = children(self.process.pid)

    def connect(self) -> Frontend:
        """A front-end that is served. It tries again where workers still have to let go of the last one's files."""
        deadline = time.monotonic() + MAX_WAIT
        while True:
            frontend = Frontend.connect(self.path)
            try:
                frontend.ask_u64(Request.GET_FEATURES)
            except (Closed, OSError):
                frontend.close()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.01)
            else:
                return frontend

    def serves(self) -> None:
        self.connect().close()

    def send_kick(self, fd: int) -> Frontend:
        frontend = self.connect()
        frontend.send(Request.SET_VRING_KICK, U64.pack(1), [fd])
        os.close(fd)
        frontend.ask_u64(Request.GET_FEATURES)
        return frontend

    def ends(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(MAX_WAIT)


@pytest.fixture
def fwd() -> Iterator[Fwd]:
    with short_dir() as directory:
        running = Fwd(directory)
        try:
            yield running
        finally:
            running.process.kill()
            running.process.wait(MAX_WAIT)
            until(lambda: gone(running.keeper))


def test_an_eventfd_that_cannot_be_let_go_holds_neither_its_port_nor_a_stop(fwd: Fwd) -> None:
    with Held(2) as (first, second):
        fwd.send_kick(first).close()
        fwd.serves()
        stays = fwd.send_kick(second)
        assert fwd.ends(signal.SIGTERM) == 0
        stays.close()


@pytest.mark.parametrize("unread", [False, True], ids=["received", "still in the socket"])
def test_an_eventfd_that_cannot_be_let_go_does_not_keep_fwd_from_being_killed(fwd: Fwd, unread: bool) -> None:
    with Held(1) as (fd,):
        if unread:
            # The reply to what was asked before is not read: then nothing more is received.
            frontend = fwd.connect()  # and the helper has the connection
            fwd.process.send_signal(signal.SIGSTOP)
            frontend.send(Request.SET_VRING_KICK, U64.pack(1), [fd])
            os.close(fd)
        else:
            frontend = fwd.send_kick(fd)
        assert fwd.ends(signal.SIGKILL) == -signal.SIGKILL
        frontend.close()


def test_an_epoll_and_a_pipe_that_somebody_holds_are_refused_without_a_look_that_waits(fwd: Fwd) -> None:
    reader, writer = os.pipe()
    threading.Thread(target=os.read, args=(reader, 1), daemon=True).start()  # holds the pipe's lock while it looks
    held = Held(1)
    with held:
        for fd in (held.epoll(), os.dup(reader)):
            frontend = fwd.connect()
            frontend.send(Request.SET_VRING_KICK, U64.pack(1), [fd])
            os.close(fd)
            assert frontend.wait_closed()
            frontend.close()
            fwd.serves()
        assert fwd.ends(signal.SIGTERM) == 0
    os.write(writer, b".")
    os.close(writer)


def test_a_helper_that_was_killed_is_missed_in_the_log_and_ports_go_on(fwd: Fwd) -> None:
    before = len(links(fwd.process.pid))
    os.kill(fwd.keeper, signal.SIGKILL)
    until(lambda: "fv-keeper) is gone" in fwd.log.read_text())
    fwd.send_kick(os.eventfd(0)).close()
    fwd.serves()
    until(lambda: len(links(fwd.process.pid)) <= before)
    assert fwd.ends(signal.SIGTERM) == 0
    assert fwd.log.read_text().count("fv-keeper") == 1
