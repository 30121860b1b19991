"""The control socket: questions and answers, and clients that behave badly."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.backend import foreign_files
from fastvhost.control import control_client, control_socket, runtime_dir
from fastvhost.control.control_socket import ControlSocket
from fastvhost.control.errors import RuntimeFailure, UsageError
from tests.lingering import lingering


def echo(request: Any) -> Any:
    return {"asked": request}


def unknown(_request: Any) -> Any:
    raise LookupError("there is no port 'z'")


def broken(_request: Any) -> Any:
    raise ZeroDivisionError


@pytest.fixture
def path(directory: Path) -> Iterator[Path]:
    server = ControlSocket(directory / "c.sock", {"echo": echo, "unknown": unknown, "broken": broken})
    server.open()
    server.start()
    yield server.path
    server.stop()
    assert not server.path.exists()


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(MAX_WAIT)
    connection.connect(os.fspath(path))
    return connection


def answer(connection: socket.socket, line: bytes) -> Any:
    connection.sendall(line)
    return json.loads(connection.makefile("rb").readline())


def test_a_question_is_answered_and_the_next_one_too(path: Path) -> None:
    with connect(path) as connection:
        for number in range(3):
            request = {"command": "echo", "number": number}
            assert answer(connection, json.dumps(request).encode() + b"\n")["result"] == {"asked": request}


def test_a_question_may_arrive_byte_by_byte(path: Path) -> None:
    with connect(path) as connection:
        for byte in b'{"command": "echo"}':
            connection.send(bytes([byte]))
        assert answer(connection, b"\n")["ok"]


def test_only_the_owner_and_the_group_may_connect(path: Path) -> None:
    assert stat.S_IMODE(path.lstat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{\n", "not a line of JSON"),
        (b"\xff\n", "not a line of JSON"),
        (b"[" * 4000 + b"\n", "not a line of JSON"),
        (b"[]\n", "no such command; there are echo, unknown, broken"),
        (b'{"command": ["echo"]}\n', "no such command"),
        (b'{"command": "reboot"}\n', "no such command"),
        (b'{"command": "unknown"}\n', "there is no port 'z'"),
        (b'{"command": "broken"}\n', "ZeroDivisionError"),
    ],
)
def test_a_bad_question_gets_a_reason_and_the_connection_stays(path: Path, line: bytes, said: str) -> None:
    with connect(path) as connection:
        seen = answer(connection, line)
        assert not seen["ok"]
        assert said in seen["error"]
        assert answer(connection, b'{"command": "echo"}\n')["ok"]


def test_a_question_without_end_is_cut_off(path: Path) -> None:
    with connect(path) as connection, pytest.raises(OSError):  # noqa: PT012 - one of the sends meets the closed end
        for _ in range(1000):
            connection.sendall(b"x" * 4096)
            time.sleep(0.001)
    with connect(path) as other:
        assert answer(other, b'{"command": "echo"}\n')["ok"]


def test_a_client_that_never_reads_does_not_keep_others_waiting(path: Path) -> None:
    with connect(path) as deaf, connect(path) as other:
        deaf.settimeout(0.5)  # it cannot write there
        line = json.dumps({"command": "echo", "filling": "x" * 3000}).encode() + b"\n"
        with pytest.raises(OSError):  # noqa: PT012
            for _ in range(5000):
                deaf.sendall(line)
        assert answer(other, b'{"command": "echo"}\n')["ok"]


def test_who_asks_for_much_at_once_and_reads_nothing_costs_a_few_answers(directory: Path) -> None:
    made: list[int] = []

    def much(_request: Any) -> str:
        made.append(1)
        return "x" * (1 << 20)

    server = ControlSocket(directory / "c.sock", {"much": much, "echo": echo})
    server.open()
    server.start()
    try:
        with connect(server.path) as deaf, connect(server.path) as other:
            deaf.sendall(b'{"command": "much"}\n' * 200)
            wait_until("its first answer", MAX_WAIT, lambda: bool(made))
            assert answer(other, b'{"command": "echo"}\n')["ok"]
            assert len(made) <= control_socket.MAX_UNSENT_BYTES // (1 << 20) + 1
            with contextlib.suppress(ConnectionResetError):
                while deaf.recv(1 << 16):
                    pass
        assert len(made) <= control_socket.MAX_UNSENT_BYTES // (1 << 20) + 1
    finally:
        server.stop()


def test_idle_clients_shut_nobody_out_the_longest_idle_one_makes_room(path: Path) -> None:
    idle = [connect(path) for _ in range(control_socket.MAX_PER_USER + 4)]
    deadline = time.monotonic() + MAX_WAIT
    sent_away: list[socket.socket] = []
    while len(sent_away) < 4 and time.monotonic() < deadline:
        sent_away = select.select(idle, [], [], 0.1)[0]
    assert sent_away == idle[:4]
    assert [connection.recv(1) for connection in sent_away] == [b""] * 4
    with connect(path) as asking:
        assert answer(asking, b'{"command": "echo"}\n')["ok"]
        # The client that has just asked keeps its place.
        idle += [connect(path) for _ in range(control_socket.MAX_PER_USER - 1)]
        assert answer(asking, b'{"command": "echo"}\n')["ok"]
    for connection in idle:
        connection.close()


def test_no_user_takes_the_places_of_another(directory: Path) -> None:
    server = ControlSocket(directory / "c.sock", {"echo": echo})
    server.open()
    users = iter([0, *[1000] * 20, *[1001] * 20, 0])

    def take() -> socket.socket:
        connection = connect(server.path)
        assert server._listener is not None
        server._accept(server._listener)
        return connection

    class Client(control_socket._Client):
        def __init__(self, connection: socket.socket) -> None:
            super().__init__(connection)
            self.user = next(users)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(control_socket, "_Client", Client)
        clients = [take() for _ in range(42)]
    there = Counter(client.user for client in server._clients.values())
    assert there == {0: 2, 1000: control_socket.MAX_PER_USER - 1, 1001: control_socket.MAX_PER_USER - 1}
    for client in clients:
        client.close()
    server.stop()


@pytest.mark.parametrize("trouble", [OSError(errno.ENOMEM, "no memory"), MemoryError(), KeyError("a defect")], ids=repr)
@pytest.mark.parametrize("where", ["_turn", "_next", "_make_room", "_attend", "_take_requests", "_drop", "_drop_idle"])
def test_no_error_of_its_own_ends_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str, trouble: Exception
) -> None:
    monkeypatch.setattr(control_socket, "PAUSE", 0.01)
    before, failed = getattr(ControlSocket, where), threading.Event()

    def fail(*words: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise trouble
        return before(*words)

    monkeypatch.setattr(ControlSocket, where, fail)
    with connect(path) as connection, contextlib.suppress(BrokenPipeError):  # it may be the one that is dropped
        connection.send(b'{"command": "echo"}\n')
    assert failed.wait(MAX_WAIT)
    for _ in range(3):
        with connect(path) as other:
            assert answer(other, b'{"command": "echo"}\n')["ok"]


def test_without_a_file_left_an_operator_is_answered_and_nothing_spins(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, third, fourth = (socket.socket(socket.AF_UNIX) for _ in range(3))
    for connection in (waiting, third, fourth):
        connection.settimeout(MAX_WAIT)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        for connection in (waiting, third, fourth):  # by the reserve, and then in the place of the one before
            connection.connect(os.fspath(path))
            connection.sendall(b'{"command": "echo"}\n')
            assert json.loads(connection.recv(1000))["ok"]
        turns, turn = [], ControlSocket._turn
        monkeypatch.setattr(ControlSocket, "_turn", lambda self: (turns.append(None), turn(self))[1])
        start = time.monotonic()
        time.sleep(0.2)
        assert len(turns) < 20 + 100 * (time.monotonic() - start)  # one that spins makes thousands a second
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for connection in (waiting, third, fourth):
        connection.close()


@contextlib.contextmanager
def without_refusing_descriptors(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[Path]:
    """A control socket as it is on kernels before 6.16."""
    monkeypatch.setattr(foreign_files, "SO_PASSRIGHTS", -1)
    server = ControlSocket(directory / "old.sock", {"echo": echo})
    server.open()
    server.start()
    yield server.path
    server.stop()


def test_a_client_that_sends_files_is_dropped_and_none_of_them_holds_up_the_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets whose last close waits for an hour."""
    with without_refusing_descriptors(monkeypatch, directory) as path, lingering(2) as socks:
        for sock in socks:
            with connect(path) as client:
                socket.send_fds(client, [b'{"command": '], [sock.fileno()])
                # The server must have the last descriptor; otherwise this test would block.
                threading.Thread(target=sock.close, daemon=True).start()
                assert client.recv(1) == b""
        with connect(path) as other:
            assert answer(other, b'{"command": "echo"}\n')["ok"]


def test_more_files_than_a_process_may_open_cost_a_client_its_connection(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with without_refusing_descriptors(monkeypatch, directory) as path, connect(path) as client:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, limits[1]))
        try:
            socket.send_fds(client, [b'{"command": "echo"}\n'], [0] * foreign_files.MOST_CARRIED)
            assert client.recv(1) == b""
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with connect(path) as other:
            assert answer(other, b'{"command": "echo"}\n')["ok"]


def test_a_client_hears_that_files_are_not_taken_where_the_kernel_can_tell(path: Path) -> None:
    with connect(path) as client:
        try:
            socket.send_fds(client, [b'{"command": "echo"}\n'], [0])
        except PermissionError:
            assert answer(client, b'{"command": "echo"}\n')["ok"]
        else:
            assert client.recv(1) == b""


def test_a_client_that_says_nothing_loses_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "IDLE_SECONDS", 0.1)
    with connect(path) as connection:
        assert connection.recv(1) == b""


def test_an_answer_that_is_too_long_is_one_sentence_and_the_next_one_is_an_answer(directory: Path) -> None:
    """A client that never reads would have it kept."""
    long = "x" * control_socket.MAX_UNSENT_BYTES
    server = ControlSocket(directory / "c.sock", {"long": lambda _: long, "echo": echo})
    server.open()
    server.start()
    try:
        with connect(server.path) as connection:
            told = answer(connection, b'{"command": "long"}\n')
            assert not told["ok"]
            assert "longer than 4 MiB" in told["error"]
            assert answer(connection, b'{"command": "echo"}\n')["ok"]
    finally:
        server.stop()


def test_ports_are_asked_for_part_by_part_and_a_fwd_that_tells_all_at_once_is_understood(directory: Path) -> None:
    rows = [{"name": name} for name in "abcde"]

    def show(request: Any) -> Any:
        first = request["from"]
        return {"rows": rows[first : first + 2], "next": first + 2 if first + 2 < len(rows) else None}

    for handler in (show, lambda _: rows):
        server = ControlSocket(directory / "c.sock", {"show": handler})
        server.open()
        server.start()
        assert control_client.ports(str(server.path)) == rows
        server.stop()


def test_parts_that_lead_back_are_no_fwd_s(directory: Path) -> None:
    server = ControlSocket(directory / "c.sock", {"show": lambda _: {"rows": [], "next": 0}})
    server.open()
    server.start()
    with pytest.raises(RuntimeFailure, match="not fastvhost's"):
        control_client.ports(str(server.path))
    server.stop()


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    path = directory / "c.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(os.fspath(path))
    server = ControlSocket(path, {"echo": echo})
    server.open()
    server.start()
    assert control_client.ask(str(path), "echo") == {"asked": {"command": "echo"}}
    server.stop()


def test_a_socket_where_somebody_answers_and_a_file_are_left_alone(path: Path, directory: Path) -> None:
    with pytest.raises(RuntimeFailure, match="another process answers"):
        ControlSocket(path, {}).open()
    file = directory / "file"
    file.write_text("precious")
    with pytest.raises(RuntimeFailure, match="is no socket"):
        ControlSocket(file, {}).open()
    assert file.read_text() == "precious"


def test_a_socket_that_took_the_path_meanwhile_is_left_to_its_owner(directory: Path) -> None:
    first, second = (ControlSocket(directory / "c.sock", {"echo": echo}) for _ in range(2))
    first.open()
    first.path.unlink()
    second.open()
    second.start()
    first.stop()
    assert control_client.ask(str(second.path), "echo") == {"asked": {"command": "echo"}}
    second.stop()
    assert not second.path.exists()


def changed(request: Any) -> Any:
    if request["command"] == "misuse":
        raise UsageError("there is no port 'z'; add it")
    return ["changed"]


class Stranger(control_socket._Client):
    """A client of another user, who is no root and has this process's groups."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.user = 12345


@pytest.fixture
def changing(directory: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A control socket with requests that change something. Its parameter: the group that may make them."""
    changes = {"change": changed, "misuse": changed}
    server = ControlSocket(directory / "c.sock", {"echo": echo}, changes=changes, changing_group=request.param)
    server.open()
    server.start()
    yield server.path
    server.stop()


NO_GROUP_OF_OURS = next(number for number in range(60_000, 70_000) if number not in (os.getgid(), *os.getgroups()))


@pytest.mark.parametrize("changing", [-1, NO_GROUP_OF_OURS], indirect=True)
def test_who_may_connect_may_ask_and_changes_nothing(changing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "_Client", Stranger)
    assert control_client.ask(str(changing), "echo") == {"asked": {"command": "echo"}}
    with pytest.raises(RuntimeFailure, match=r"change: only its own user and root may change .*--control-group"):
        control_client.ask(str(changing), "change")


@pytest.mark.parametrize("changing", [os.getgid(), *os.getgroups()[:1]], indirect=True)
def test_a_member_of_the_group_may_change_something(changing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "_Client", Stranger)
    assert control_client.ask(str(changing), "change") == ["changed"]


@pytest.mark.parametrize("changing", [-1], indirect=True)
def test_its_own_user_may_change_something_and_hears_of_wrong_usage(changing: Path) -> None:
    assert control_client.ask(str(changing), "change") == ["changed"]
    with pytest.raises(UsageError, match="there is no port 'z'; add it"):
        control_client.ask(str(changing), "misuse")


def test_a_client_hears_why_there_is_no_answer(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeFailure, match="is fastvhost fwd running there"):
        control_client.ask(str(directory / "none.sock"), "stats")
    monkeypatch.setattr(control_client, "TIMEOUT_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(os.fspath(directory / "silent.sock"))
        silent.listen()
        with pytest.raises(RuntimeFailure, match=r"no answer in 0\.1 s"):
            control_client.ask(str(directory / "silent.sock"), "stats")


def test_a_client_does_not_take_another_programs_answer_for_ours(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(os.fspath(directory / "s.sock"))
        stranger.listen()

        def reply() -> None:
            connection, _ = stranger.accept()
            connection.recv(100)
            connection.sendall(b"220 smtp ready\n")
            connection.close()

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(RuntimeFailure, match="not fastvhost's"):
            control_client.ask(str(directory / "s.sock"), "stats")
        thread.join()


@pytest.fixture
def own_runtime_dir(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_dir, "candidates", lambda: iter([directory / "run"]))
    return directory / "run"


def test_the_only_running_fwd_is_found_and_two_must_be_told_apart(own_runtime_dir: Path) -> None:
    with pytest.raises(RuntimeFailure, match="no running fwd found"):
        control_client.find()
    one = ControlSocket(runtime_dir.own_socket(), {"echo": echo})
    one.open()
    (own_runtime_dir / "fwd-1.sock").touch()  # left by a process that was killed
    assert control_client.find() == one.path
    two = ControlSocket(own_runtime_dir / "fwd-2.sock", {"echo": echo})
    two.open()
    with pytest.raises(RuntimeFailure, match=r"2 fwd are running.*fwd-2\.sock"):
        control_client.find()
    one.stop()
    two.stop()


def test_a_directory_for_control_sockets_is_private_to_this_user(own_runtime_dir: Path) -> None:
    assert runtime_dir.choose() == own_runtime_dir
    assert stat.S_IMODE(own_runtime_dir.stat().st_mode) == 0o700
    own_runtime_dir.chmod(0o777)
    with pytest.raises(OSError, match="others may write it"):
        runtime_dir.choose()


def test_a_link_in_the_place_of_the_directory_is_not_followed(own_runtime_dir: Path, directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    own_runtime_dir.symlink_to(directory / "elsewhere")
    with pytest.raises(OSError, match="not a directory"):
        runtime_dir.choose()


@pytest.mark.parametrize("fault", ["of another user", "others may write it", "a link", "a socket of another user"])
def test_a_socket_that_somebody_else_could_have_made_is_not_believed(
    own_runtime_dir: Path, directory: Path, fault: str
) -> None:
    stranger = ControlSocket(runtime_dir.own_socket(), {"echo": echo})
    stranger.open()
    assert control_client.find() == stranger.path
    if fault == "of another user":
        os.chown(own_runtime_dir, 65534, -1)
    elif fault == "others may write it":
        own_runtime_dir.chmod(0o777)
    elif fault == "a link":
        own_runtime_dir.rename(directory / "elsewhere")
        own_runtime_dir.symlink_to(directory / "elsewhere")
    else:
        os.chown(stranger.path, 65534, -1)
    with pytest.raises(RuntimeFailure, match="no running fwd found"):
        control_client.find()
    stranger.stop()


def test_the_socket_of_a_process_that_is_not_seen_here_is_not_swept_while_it_answers(own_runtime_dir: Path) -> None:
    runtime_dir.choose()
    path = own_runtime_dir / f"fwd-{2**22 + 1}.sock"
    with socket.socket(socket.AF_UNIX) as elsewhere:
        elsewhere.bind(os.fspath(path))  # in a container that shares the directory
        runtime_dir.remove_stale()
        assert path.exists()


def test_a_control_socket_in_a_directory_that_others_may_write_is_refused(directory: Path) -> None:
    directory.chmod(0o777)
    with pytest.raises(RuntimeFailure, match=f"chmod \\+t {directory}, or name another place with --control PATH"):
        ControlSocket(directory / "c.sock", {}).open()


def test_sockets_that_no_process_has_are_swept_whatever_their_pid_means_here(own_runtime_dir: Path) -> None:
    runtime_dir.choose()
    # One pid does not exist here, one is this process's; two containers both have a process of that number.
    names = (f"fwd-{2**22 + 1}.sock", f"fwd-{os.getpid()}.sock", "fwd-1-4026532001.sock", "fwd-1-9f86d081.sock")
    for name in names:
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(os.fspath(own_runtime_dir / name))
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(os.fspath(own_runtime_dir / "fwd-1-4026532002.sock"))
        runtime_dir.remove_stale()
    assert [path.name for path in own_runtime_dir.iterdir()] == ["fwd-1-4026532002.sock"]
