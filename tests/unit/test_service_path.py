"""The path that a port listens on: what is there already, whose it becomes, and what is refused."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from fastvhost.frontend.errors import ServiceError
from fastvhost.vhostuser import endpoint
from fastvhost.vhostuser.service import VhostUserService
from tests.frontend import Request
from tests.unit.fake_port import FakePort
from tests.unit.service_rig import Rig, until
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
                stack.enter_context(endpoint._connect(str(path)))
        with pytest.raises(ServiceError, match="another process answers"):
            endpoint.Listener(str(path), 0o660, None)


def test_a_socket_that_is_about_to_listen_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as early:
        early.bind(str(path))
        with pytest.raises(ServiceError, match="another process answers"):
            endpoint.Listener(str(path), 0o660, None)
        assert path.exists()


def test_a_socket_that_is_looked_at_hears_nothing_of_it(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        busy.setblocking(False)
        with pytest.raises(ServiceError, match="another process answers"):
            endpoint.Listener(str(path), 0o660, None)
        with pytest.raises(BlockingIOError):
            busy.accept()


def test_a_socket_whose_listener_is_gone_is_stale_though_its_connections_live_on(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
        left_behind.listen()
        client = endpoint._connect(str(path))
        accepted = left_behind.accept()[0]
    with client, accepted:
        endpoint.Listener(str(path), 0o660, None).close()


def test_a_file_that_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "a.sock"
    path.write_text("precious")
    with pytest.raises(ServiceError, match="no socket"):
        endpoint.Listener(str(path), 0o660, None)
    assert path.read_text() == "precious"


def test_a_link_to_a_file_is_left_alone(directory: Path) -> None:
    (directory / "precious").write_text("precious")
    (directory / "a.sock").symlink_to(directory / "precious")
    with pytest.raises(ServiceError, match="no socket"):
        endpoint.Listener(str(directory / "a.sock"), 0o660, None)


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
    early = endpoint._connect(str(path))
    rig.service.withdraw()
    assert not path.exists()
    with pytest.raises(OSError, match="No such file"):
        endpoint._connect(str(path))
    other = endpoint.Listener(str(path), 0o660, None)
    go_on.set()
    rig.close()
    assert path.exists()
    other.close()
    early.close()
    served.close()


def test_a_port_that_withdraws_serves_on_until_it_is_stopped_and_sleeps_meanwhile(directory: Path) -> None:
    rig = Rig(directory / "a.sock")
    served = rig.frontend()
    until(lambda: rig.state == "connected")
    rig.service.withdraw()
    assert served.ask_u64(Request.GET_FEATURES)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1
    rig.close()
    assert served.wait_closed()
    served.close()


def test_a_path_is_107_bytes_at_most(directory: Path) -> None:
    room = endpoint.MAX_PATH_BYTES - len(str(directory)) - 1
    rig = Rig(directory / ("a" * room))
    rig.close()
    with pytest.raises(ServiceError, match="108 bytes") as refused:
        endpoint.Listener(str(directory / ("a" * (room + 1))), 0o660, None)
    assert refused.value.kind == "usage"


def test_bytes_count_and_not_letters(directory: Path) -> None:
    with pytest.raises(ServiceError, match="bytes"):
        endpoint.check_path(str(directory / ("é" * 60)))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(ServiceError, match="no path"):
        endpoint.check_path(path)


def test_a_missing_directory_is_named_with_the_command_that_makes_it(directory: Path) -> None:
    with pytest.raises(ServiceError, match=f"mkdir -p {directory}/none"):
        endpoint.Listener(str(directory / "none" / "a.sock"), 0o660, None)


def test_an_unknown_group_is_refused_before_anything_is_made(directory: Path) -> None:
    with pytest.raises(ServiceError, match="no group 'nosuchgroup'"):
        endpoint.Listener(str(directory / "a.sock"), 0o660, "nosuchgroup")
    assert not (directory / "a.sock").exists()


def test_what_the_system_refuses_is_no_wrong_usage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = open_fds()
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ServiceError, match="member of the group") as refused:
        endpoint.Listener(str(directory / "a.sock"), 0o660, "0")
    assert refused.value.kind == "os"
    assert not (directory / "a.sock").exists()
    assert open_fds() == before
