"""Files whose file system does not answer: they make neither control threads nor workers wait."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.backend import foreign_files, quota
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.payload import SharedRegion
from fastvhost.vhostcuse.caller import Process
from fastvhost.vhostcuse.guest_files import GuestFiles
from fastvhost.vhostuser.message import MemoryTable, SingleRegion
from fastvhost.vhostuser.service import VhostUserService
from tests.frontend import Frontend, Request
from tests.silent_files import FILE_BYTES, Silent
from tests.unit.fake_port import FAKE_MEMORY, FakePort
from tests.unit.service_rig import until
from tests.unit.session_bench import OTHER_REGION, REGION

SOON = 20.0
NOT_SO_LONG = 60.0
"""Instead of foreign_files.ANSWER_WITHIN where no file may be asked: longer than SOON, so that asking is noticed."""
SHORT = 1.0
"""Instead of it where a file is asked, so that the tests here take less time."""
USUAL = foreign_files.ANSWER_WITHIN
AFTER_ASKING = SHORT + SOON


@contextlib.contextmanager
def takes_at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody waits any more once the file system is gone."""
    monkeypatch.setattr(foreign_files, "ANSWER_WITHIN", NOT_SO_LONG)
    yield
    until(lambda: not waits_for_a_file())


@pytest.fixture
def asked_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, "ANSWER_WITHIN", SHORT)


@pytest.fixture
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "_all_threads", threading.Semaphore(0))


def waits_for_a_file() -> bool:
    return any(thread.name == "foreign-file" for thread in threading.enumerate())


def duplicate(fd: int) -> int:
    return os.dup(fd)


@pytest.mark.usefixtures("asked_for_a_second")
def test_looking_at_a_file_that_does_not_answer_ends_with_an_error() -> None:
    with Silent() as (fd,), takes_at_most(AFTER_ASKING), pytest.raises(ProtocolError, match=r"does not answer.*memfd"):
        foreign_files.examine(fd)


def test_closing_a_file_that_does_not_answer_takes_no_time_and_the_rest_is_closed_at_once() -> None:
    with Silent() as (fd,):
        copy, ours = duplicate(fd), os.memfd_create("ours")
        fds = [copy, ours]
        with takes_at_most(SOON):
            foreign_files.close_all(fds)
        assert fds == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(ours)


@pytest.mark.usefixtures("nobody_asks")
def test_with_too_many_waiting_files_that_must_be_asked_are_refused_at_once() -> None:
    with Silent() as (fd,), takes_at_most(SOON), pytest.raises(ProtocolError, match="too many"):
        foreign_files.examine(fd)


def memfd() -> int:
    return os.memfd_create("ram")


def memfd_of_huge_pages() -> int:
    return os.memfd_create("ram", os.MFD_HUGETLB | os.MFD_HUGE_2MB)


def file_of(directory: str) -> Callable[[], int]:
    def opened() -> int:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR)
        os.ftruncate(fd, 0)
        return fd

    return opened


@pytest.mark.usefixtures("nobody_asks")
@pytest.mark.parametrize(
    "make",
    [memfd, memfd_of_huge_pages, file_of("/dev/shm")],
    ids=["memfd", "memfd of huge pages", "tmpfs"],
)
def test_memory_of_the_kernels_own_needs_nobody_to_ask(make: Callable[[], int]) -> None:
    fd = make()
    status = os.fstat(fd)
    assert foreign_files.examine(fd).identity == (status.st_dev, status.st_ino)
    foreign_files.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.usefixtures("asked_for_a_second")
def test_a_name_like_a_memfds_is_no_memfd() -> None:
    with Silent(name="memfd:ram (deleted)") as (fd,):
        with takes_at_most(AFTER_ASKING), pytest.raises(ProtocolError):
            foreign_files.examine(fd)
        with takes_at_most(SOON):
            foreign_files.close(duplicate(fd))


@pytest.mark.usefixtures("asked_for_a_second")
def test_an_answer_after_the_time_is_not_lost() -> None:
    go_on = threading.Event()
    late: list[int] = []

    def call() -> int:
        go_on.wait(2 * MAX_WAIT)
        return 7

    with pytest.raises(ProtocolError):
        foreign_files.within(call, late.append)
    go_on.set()
    until(lambda: late == [7])


@pytest.mark.usefixtures("asked_for_a_second")
def test_who_does_not_answer_is_named() -> None:
    go_on = threading.Event()
    with pytest.raises(ProtocolError, match="process 7 holds it up"):
        foreign_files.within(lambda: go_on.wait(2 * MAX_WAIT), unanswered="process 7 holds it up")
    go_on.set()


def test_an_overloaded_machine_has_seconds_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, "ANSWER_WITHIN", USUAL)
    go_on = threading.Event()
    threading.Timer(2, go_on.set).start()
    assert foreign_files.within(lambda: go_on.wait(2 * MAX_WAIT))


def test_an_overlay_is_refused_because_nobody_knows_what_lies_below() -> None:
    code = (
        "import os; from fastvhost.backend import foreign_files\n"
        "try: foreign_files.examine(os.open('m/ram', os.O_RDWR | os.O_CREAT))\n"
        "except Exception as error: print(error)"
    )
    words = (
        "mount -t tmpfs none . && mkdir l u w m && "
        'mount -t overlay -o userxattr,lowerdir=l,upperdir=u,workdir=w none m && exec "$@"'
    )
    with short_dir() as directory:
        said = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"cd {directory} && cd . && {words}", "sh",
             sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE, text=True, check=True, timeout=2 * MAX_WAIT,
        )  # fmt: skip
    assert "(overlay)" in said.stdout


# The effect of such a file on a port


@pytest.fixture
def path() -> Iterator[Path]:
    with short_dir() as directory:
        port = FakePort("a")
        service = VhostUserService(str(directory / "a.sock"), port, memory=FAKE_MEMORY)
        service.open()
        service.start()
        yield directory / "a.sock"
        service.stop(MAX_WAIT)
        assert service.defects == 0
        port.close()


def served(path: Path, seconds: float) -> None:
    """A front-end comes and is answered."""
    with contextlib.closing(Frontend.connect(path, seconds)) as frontend:
        frontend.ask_u64(Request.GET_FEATURES)


@pytest.mark.parametrize(
    ("request_", "payload", "seconds"),
    [
        (Request.SET_MEM_TABLE, MemoryTable((REGION,)).encode(), AFTER_ASKING),
        (Request.ADD_MEM_REG, SingleRegion(REGION).encode(), AFTER_ASKING),
        (Request.SET_VRING_KICK, bytes(8), SOON),
        (Request.SET_VRING_CALL, bytes(8), SOON),
        (Request.SET_VRING_ERR, bytes(8), SOON),
        (Request.SET_OWNER, b"", SOON),
    ],
    ids=["memory table", "memory region", "kick", "call", "err", "surplus"],
)
def test_a_port_is_not_held_up_by_a_file_that_does_not_answer(
    path: Path, request_: int, payload: bytes, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seconds == AFTER_ASKING:
        monkeypatch.setattr(foreign_files, "ANSWER_WITHIN", SHORT)
    with Silent() as fds:
        frontend = Frontend.connect(path)
        frontend.send(request_, payload, fds)
        with takes_at_most(seconds):
            assert frontend.wait_closed(seconds)
        frontend.close()
        served(path, SOON)


def test_a_port_that_waits_for_such_a_file_ends_as_soon_as_it_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, "ANSWER_WITHIN", 60)
    port = FakePort("a")
    with short_dir() as directory, Silent(2) as fds:
        service = VhostUserService(str(directory / "a.sock"), port, memory=FAKE_MEMORY)
        service.open()
        service.start()
        with contextlib.closing(Frontend.connect(directory / "a.sock")) as frontend:
            frontend.send(Request.SET_MEM_TABLE, MemoryTable((REGION, OTHER_REGION)).encode(), fds)
            until(waits_for_a_file)
            service.stop(MAX_WAIT)
        assert service.defects == 0
    port.close()


def test_a_stop_ends_the_waiting_of_its_own_thread_alone() -> None:
    go_on, stopped = threading.Event(), Future[None]()
    said: list[object] = []

    def wait_for_it(stop: Future[None]) -> None:
        foreign_files.give_up_with(stop)
        try:
            said.append(foreign_files.within(lambda: go_on.wait(2 * MAX_WAIT)))
        except ProtocolError as error:
            said.append(str(error))

    threads = [threading.Thread(target=wait_for_it, args=(stop,)) for stop in (stopped, Future[None]())]
    for thread in threads:
        thread.start()
    stopped.set_result(None)
    threads[0].join(MAX_WAIT)
    assert said == ["given up, because the port is to stop"]
    go_on.set()
    threads[1].join(MAX_WAIT)
    assert said[1:] == [True]


def test_files_left_behind_in_half_a_message_are_closed_without_waiting(path: Path) -> None:
    with Silent() as fds:
        frontend = Frontend.connect(path)
        frontend.send_raw(b"\x05\0\0\0", fds)
        frontend.close()
        served(path, SOON)


@pytest.mark.usefixtures("asked_for_a_second")
def test_memory_of_a_cuse_front_end_on_such_a_file_is_refused_in_words() -> None:
    with Silent() as (fd,), Mapped(fd) as (pid, address), contextlib.closing(Process(pid)) as caller:
        region = SharedRegion(0, FILE_BYTES, address, 0)
        with takes_at_most(AFTER_ASKING), pytest.raises(ProtocolError, match="does not answer"):
            GuestFiles(caller, [region])


class Mapped:
    """A process that maps a file and keeps it open."""

    # Not the module mmap, which looks at the file first.
    CODE = (
        "import ctypes, sys; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p; "
        "fd, size = map(int, sys.argv[1:]); "
        "print(libc.mmap(None, ctypes.c_size_t(size), 3, 1, fd, ctypes.c_long(0)), flush=True); "
        "sys.stdin.read()"
    )

    def __init__(self, fd: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(fd), str(FILE_BYTES)],
            pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> tuple[int, int]:
        assert self._process.stdout is not None
        return self._process.pid, int(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # and not waited for: it closes that file, too
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
