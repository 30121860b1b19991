"""The file of a listening socket that somebody removes, moves or replaces while it listens."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.sockets import listening
from fastvhost.sockets.listening import ListeningSocket
from tests.unit.session_bench import open_fds

LATER = listening.LOOK_SECONDS


class Looked(ListeningSocket):
    """A listening socket that checks its file at each call."""

    now = 0.0

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), 0o660, None, 8)
        self.look(self.now)

    def looked(self) -> str:
        self.now += LATER
        return self.look(self.now)


@pytest.fixture
def path(directory: Path) -> Path:
    (directory / "in").mkdir()
    return directory / "in" / "a.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[Looked]:
    before = open_fds()
    listener = Looked(path)
    yield listener
    listener.close()
    listener.close()
    assert open_fds() == before


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def test_it_is_looked_at_every_five_seconds_and_nothing_is_said_of_a_file_that_is_there(listener: Looked) -> None:
    assert listener.look_at == LATER
    assert listener.looked() == ""
    assert listener.look_at == 2 * LATER


def test_where_a_process_has_many_each_is_looked_at_more_seldom(listener: Looked, path: Path) -> None:
    with contextlib.ExitStack() as closing:
        for number in range(99):
            closing.callback(ListeningSocket(str(path.with_name(str(number))), 0o660, None, 1).close)
        assert listener.look_at == pytest.approx(2 * LATER)
    assert listener.look_at == LATER


@pytest.mark.parametrize("how", ["removed", "moved away"])
def test_a_file_that_is_gone_is_made_again_with_its_mode(listener: Looked, path: Path, how: str) -> None:
    path.unlink() if how == "removed" else path.rename(path.with_name("elsewhere"))
    assert listener.look(listener.now + LATER / 2) == ""
    assert "was removed, by a cleaner of old files perhaps, and is made again" in listener.looked()
    assert path.stat().st_mode & 0o777 == 0o660
    assert connects(path)
    assert listener.accept() is not None
    assert listener.looked() == ""
    path.unlink()
    assert "is made again" in listener.looked()  # each time


def test_a_missing_directory_is_waited_for_and_logged_once(listener: Looked, path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    assert "and cannot be made again: " in (said := listener.looked())
    assert f"{path.parent}: No such file or directory; choose another path; trying on" in said
    assert listener.looked() == ""
    path.parent.mkdir()
    assert "and is made again" in listener.looked()
    assert connects(path)


def test_nothing_is_made_in_a_directory_that_others_may_write_by_now(listener: Looked, path: Path) -> None:
    path.unlink()
    path.parent.chmod(0o777)
    assert "cannot be made again: " in (said := listener.looked())
    assert "other users may replace files" in said
    assert not path.exists()


@pytest.mark.parametrize("kind", ["socket", "file", "link"])
def test_what_another_one_put_there_is_left_alone_for_good(listener: Looked, path: Path, kind: str) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "socket":
            other.bind(str(path))
        elif kind == "file":
            path.write_text("precious")
        else:
            path.symlink_to("elsewhere")
        assert "made another one there, which is left alone" in listener.looked()
        assert (listener.lost, listener.look_at) == (True, None)
        path.unlink()
        assert listener.looked() == ""
        assert not path.exists()


def test_after_it_was_withdrawn_nothing_is_made_again(listener: Looked, path: Path) -> None:
    listener.withdraw()
    assert not path.exists()
    assert listener.look_at is None
    assert listener.looked() == ""
    assert not path.exists()


def test_a_socket_that_is_withdrawn_while_it_is_made_again_leaves_no_file(
    listener: Looked, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread withdraws while the port's own thread looks: the second of them sees what the first did."""
    path.unlink()
    making, go_on = threading.Event(), threading.Event()
    made = listener._made

    def slowly() -> object:
        making.set()
        assert go_on.wait(MAX_WAIT)
        return made()

    monkeypatch.setattr(listener, "_made", slowly)
    threads = [threading.Thread(target=listener.looked), threading.Thread(target=listener.withdraw)]
    threads[0].start()
    assert making.wait(MAX_WAIT)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(MAX_WAIT)
        assert not thread.is_alive()
    assert not path.exists()
    assert list(path.parent.iterdir()) == []
    assert listener.accept() is None
