"""The path that a port listens on: files that are there already, mode and group, and what is refused."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastvhost.backend.errors import ServiceError
from fastvhost.sockets import socket_file
from fastvhost.vhostuser import listener
from fastvhost.vhostuser.service import VhostUserService
from tests.frontend import Request
from tests.unit.fake_port import FakePort
from tests.unit.service_rig import Rig, count_turns, until
from tests.unit.session_bench import open_fds


def test_the_socket_has_the_mode_that_was_asked_for_and_goes_away(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, socket_mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)
    rig.close()
    assert not path.exists()


def test_the_socket_gets_its_group_by_name_or_number(directory: Path) -> None:
    for group in ("root" if os.getuid() == 0 else str(os.getgid()), str(os.getgid())):
        rig = Rig(directory / "a.sock", socket_group=group)
        assert (directory / "a.sock").stat().st_gid == os.getgid()
        rig.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_mode_is_that_which_was_asked_for_under_every_umask(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for mode in (0o660, 0o600, 0o666):
            made = listener.Listener(str(directory / "a.sock"), mode, None)
            assert stat.S_IMODE((directory / "a.sock").stat().st_mode) == mode
            made.close()
    finally:
        os.umask(before)


def replaced_by(path: Path, precious: Path, how: str) -> None:
    """Does what another user who may write the directory could do."""
    path.rename(path.with_name("gone"))
    if how == "link":
        path.symlink_to(precious)
    elif how == "hard link":
        path.hardlink_to(precious)
    elif how == "socket of two names":
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(precious.with_name("other")))
        path.hardlink_to(precious.with_name("other"))


@pytest.mark.parametrize("how", ["link", "hard link", "socket of two names", "nothing"])
def test_a_file_that_somebody_puts_in_the_place_of_the_new_socket_keeps_its_mode_and_group(
    directory: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path, precious = directory / "a.sock", directory / "precious"
    precious.write_text("precious")
    precious.chmod(0o600)
    listen, bind, before = socket.socket.listen, socket.socket.bind, open_fds()

    class Quick(socket.socket):
        def bind(self, address: Any) -> None:
            bind(self, address)
            replaced_by(path, precious, how)

    monkeypatch.setattr(socket, "socket", Quick)
    group = os.getgid() + 1
    with pytest.raises(ServiceError, match=r"cannot listen: (another file has its place|No such file)"):
        listener.Listener(str(path), 0o660, str(group))
    monkeypatch.undo()
    assert listen is socket.socket.listen
    for file in directory.iterdir():
        assert file.lstat().st_gid != group
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600
    assert precious.read_text() == "precious"
    assert path.is_symlink() == (how == "link")  # what is not ours is not removed
    assert open_fds() == before


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o2770])
@pytest.mark.parametrize("above", [False, True], ids=["its own", "the one above"])
def test_a_directory_that_others_may_write_is_refused_unless_it_is_sticky(
    directory: Path, mode: int, above: bool
) -> None:
    place = directory / "shared"
    (place / "inner").mkdir(parents=True)
    os.chown(place, -1, 65534)
    place.chmod(mode)
    path = (place / "inner" if above else place) / "a.sock"
    with pytest.raises(ServiceError, match=f"replace files in {place} .*chmod \\+t {place}") as refused:
        listener.Listener(str(path), 0o660, None)
    assert refused.value.cause == "usage"
    assert not path.exists()
    (directory / "link").symlink_to(path.parent)
    with pytest.raises(ServiceError, match=f"replace files in {place}"):
        listener.Listener(str(directory / "link" / "a.sock"), 0o660, None)
    place.chmod(mode | 0o1000)
    listener.Listener(str(path), 0o660, None).close()


def test_a_directory_that_only_the_group_of_this_user_alone_may_write_is_its_own(directory: Path) -> None:
    os.chown(directory, -1, 0)
    directory.chmod(0o775)
    assert socket_file.exposed(str(directory)) == ""
    os.chown(directory, -1, 4242)  # a group that the system knows no members of may still have some
    assert socket_file.exposed(str(directory)) == str(directory)


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    rig = Rig(path)
    rig.frontend().close()
    rig.close()


def test_a_socket_somebody_answers_on_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path)
    port = FakePort("b")
    with pytest.raises(ServiceError, match="another process answers"):
        VhostUserService(str(path), port).open()
    port.close()
    rig.frontend().close()
    rig.close()


def test_a_socket_somebody_answers_on_with_a_full_queue_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                stack.enter_context(listener._connect(str(path)))
        with pytest.raises(ServiceError, match="another process answers"):
            listener.Listener(str(path), 0o660, None)


def test_a_socket_that_is_about_to_listen_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as early:
        early.bind(str(path))
        with pytest.raises(ServiceError, match="another process answers"):
            listener.Listener(str(path), 0o660, None)
        assert path.exists()


def test_a_socket_that_is_looked_at_hears_nothing_of_it(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        busy.setblocking(False)
        with pytest.raises(ServiceError, match="another process answers"):
            listener.Listener(str(path), 0o660, None)
        with pytest.raises(BlockingIOError):
            busy.accept()


def test_a_socket_whose_listener_is_gone_is_stale_though_its_connections_live_on(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
        left_behind.listen()
        client = listener._connect(str(path))
        accepted = left_behind.accept()[0]
    with client, accepted:
        listener.Listener(str(path), 0o660, None).close()


def test_a_file_that_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    path.write_text("precious")
    with pytest.raises(ServiceError, match="no socket"):
        listener.Listener(str(path), 0o660, None)
    assert path.read_text() == "precious"


def test_a_link_to_a_file_is_left_alone(directory: Path) -> None:
    (directory / "precious").write_text("precious")
    (directory / "a.sock").symlink_to(directory / "precious")
    with pytest.raises(ServiceError, match="no socket"):
        listener.Listener(str(directory / "a.sock"), 0o660, None)


def test_somebody_elses_socket_at_our_path_is_not_removed(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        rig.close()
        assert path.exists()


def test_a_port_that_withdraws_frees_its_path_at_once_though_its_thread_is_stuck(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path)
    served = rig.frontend()
    until(lambda: rig.state == "connected")
    go_on = threading.Event()
    rig.service._turn = go_on.wait  # type: ignore[method-assign]
    served.send(Request.SET_OWNER)  # it wakes, and is stuck from the next turn on
    early = listener._connect(str(path))
    rig.service.withdraw()
    assert not path.exists()
    with pytest.raises(OSError, match="No such file"):
        listener._connect(str(path))
    other = listener.Listener(str(path), 0o660, None)
    go_on.set()
    rig.close()
    assert path.exists()
    other.close()
    early.close()
    served.close()


def test_a_port_that_withdraws_serves_on_until_it_is_stopped_and_sleeps_meanwhile(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(directory / "a.sock")
    served = rig.frontend()
    until(lambda: rig.state == "connected")
    rig.service.withdraw()
    assert served.ask_u64(Request.GET_FEATURES)
    turns = count_turns(rig, monkeypatch)
    start = time.monotonic()
    time.sleep(0.2)
    assert len(turns) < 20 + 100 * (time.monotonic() - start)  # one that spins makes thousands a second
    rig.close()
    assert served.wait_closed()
    served.close()


def test_a_path_is_107_bytes_at_most(directory: Path) -> None:
    room = socket_file.MAX_PATH_BYTES - len(str(directory)) - 1
    rig = Rig(directory / ("a" * room))
    rig.close()
    with pytest.raises(ServiceError, match="108 bytes") as refused:
        listener.Listener(str(directory / ("a" * (room + 1))), 0o660, None)
    assert refused.value.cause == "usage"


def test_bytes_count_and_not_letters(directory: Path) -> None:
    with pytest.raises(ServiceError, match="bytes"):
        listener.check_path(str(directory / ("é" * 60)))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(ServiceError, match="no path"):
        listener.check_path(path)


def test_a_missing_directory_is_named_with_the_command_that_makes_it(directory: Path) -> None:
    with pytest.raises(ServiceError, match=f"mkdir -p {directory}/none"):
        listener.Listener(str(directory / "none" / "a.sock"), 0o660, None)


def test_an_unknown_group_is_refused_before_anything_is_made(directory: Path) -> None:
    with pytest.raises(ServiceError, match="nosuchgroup: there is no such group"):
        listener.Listener(str(directory / "a.sock"), 0o660, "nosuchgroup")
    assert not (directory / "a.sock").exists()


def test_what_the_system_refuses_is_no_wrong_usage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = open_fds()
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ServiceError, match="member of the group") as refused:
        listener.Listener(str(directory / "a.sock"), 0o660, str(os.getgid() + 1))
    assert refused.value.cause == "os"
    assert not (directory / "a.sock").exists()
    assert open_fds() == before
