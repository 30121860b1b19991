"""The thread of a cuse: port and its device, with a socket where the kernel would be."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend import foreign_files
from fastvhost.backend.errors import ServiceError
from fastvhost.vhostcuse import device as device_module
from fastvhost.vhostcuse.device import MISC_MAJOR, CuseDevice
from fastvhost.vhostcuse.dispatch import Dispatcher
from fastvhost.vhostcuse.ioctls import IoctlNumber, MemoryMap
from fastvhost.vhostcuse.service import VhostCuseService
from fastvhost.vhostcuse.session import Surroundings
from tests.silent_files import Silent
from tests.unit.fake_kernel import FakeCaller, FakeFiles, FakeKernel, request
from tests.unit.fake_port import FAKE_MEMORY, FakePort
from tests.unit.service_rig import until
from tests.unit.session_bench import REGION, open_fds


class SocketDevice:
    """A device whose kernel is the other end of a socket that keeps messages apart."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bytes | None:
        try:
            data = self._sock.recv(1 << 17, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not data:
            raise OSError(19, "No such device")
        return data

    def write(self, answer: bytes) -> None:
        self._sock.send(answer)

    def close(self) -> None:
        self._sock.close()


class Rig:
    """A service in its thread. devices: how often one was made."""

    def __init__(self) -> None:
        self.port = FakePort("fv0")
        self.callers: list[FakeCaller] = []
        self.made: list[tuple[str, int, str | None]] = []
        self.kernel_end: socket.socket | None = None
        self.asked_before_files: Callable[[], object] = lambda: None
        self.service = VhostCuseService("fv0", self.port, device=self._device, dispatcher=self._dispatcher)
        self.kernel = FakeKernel(self._ask)
        self.service.open()
        self.service.start()

    def _device(self, name: str, mode: int, group: str | None) -> SocketDevice:
        if self.kernel_end is not None:
            self.kernel_end.close()
        self.kernel_end, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel_end.settimeout(MAX_WAIT)
        self.made.append((name, mode, group))  # last: a waiting test then uses the new end
        return SocketDevice(ours)

    def _dispatcher(self, port: Any, narrative: Any, **_: Any) -> Dispatcher:
        return Dispatcher(port, narrative, FAKE_MEMORY, self._identify, Surroundings(self._files))

    def _files(self, caller: Any, regions: Any) -> FakeFiles:
        self.asked_before_files()
        return FakeFiles(caller, regions)

    def _identify(self, thread: int) -> FakeCaller:
        self.callers.append(FakeCaller(thread))
        return self.callers[-1]

    def _ask(self, data: bytes) -> bytes:
        assert self.kernel_end is not None
        self.kernel_end.send(data)
        return self.kernel_end.recv(1 << 17)

    def state(self) -> str:
        return str(self.service.describe()["state"])

    def close(self) -> None:
        self.service.stop(MAX_WAIT)
        if self.kernel_end is not None:
            self.kernel_end.close()
        self.port.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = open_fds()
    made = Rig()
    yield made
    made.close()
    assert open_fds() == before


def test_it_waits_for_a_front_end_and_tells_who_came(rig: Rig) -> None:
    waiting = {"device": "/dev/fv0", "queue_pairs": 1, "state": "listening", "peer_pid": None}
    assert rig.service.describe() == waiting
    handle = rig.kernel.open()
    assert rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER) == (0, b"")
    about = rig.service.describe()
    assert (about["peer_pid"], about["state"]) == (7000, "connected")
    rig.kernel.close(handle)
    assert rig.service.describe()["peer_pid"] is None


def test_the_end_of_its_process_ends_a_front_end_whose_file_lives_on(rig: Rig) -> None:
    handle = rig.kernel.open()
    rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)
    rig.callers[0].end()
    until(lambda: rig.state() == "listening")
    assert rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER) == (0, b"")
    assert len(rig.callers) == 2


@pytest.fixture
def silent() -> Iterator[int]:
    """A file whose file system does not answer."""
    with Silent() as (fd,):
        yield fd
    until(lambda: not waits_for_a_file())


def waits_for_a_file() -> bool:
    return any(thread.name == "foreign-file" for thread in threading.enumerate())


def test_a_port_that_is_to_stop_waits_no_longer_for_what_it_asked_about_memory(silent: int, rig: Rig) -> None:
    rig.asked_before_files = lambda: foreign_files.examine(silent)
    handle = rig.kernel.open()
    rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)
    answers: list[tuple[int, bytes]] = []
    table = MemoryMap((REGION,)).encode()
    number = IoctlNumber.SET_MEM_TABLE
    front_end = threading.Thread(target=lambda: answers.append(rig.kernel.ioctl(handle, number, table)))
    front_end.start()
    until(waits_for_a_file)
    rig.service.stop(MAX_WAIT)
    front_end.join(MAX_WAIT)
    assert answers == [(errno.EINVAL, b"")]
    assert rig.service.defects == 0


def test_a_front_end_that_ends_while_a_worker_is_stuck_leaves_a_port_that_serves_again_once_that_is_back(
    rig: Rig,
) -> None:
    handle = rig.kernel.open()
    rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)
    rig.port.worker_stuck = True
    rig.callers[0].end()
    until(lambda: rig.state() == "listening")
    answers: list[tuple[int, bytes]] = []
    asks = threading.Thread(target=lambda: answers.append(rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)))
    asks.start()
    time.sleep(0.1)  # in which nothing comes
    assert answers == []
    rig.port.worker_stuck = False
    asks.join(MAX_WAIT)
    assert answers == [(0, b"")]
    assert rig.state() == "connected"


def test_an_ioctl_waits_for_a_worker_and_is_answered_once_that_is_back(rig: Rig) -> None:
    handle = rig.kernel.open()
    rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)
    rig.port.worker_stuck = True
    answers: list[tuple[int, bytes]] = []
    ask = threading.Thread(target=lambda: answers.append(rig.kernel.ioctl(handle, IoctlNumber.SET_FEATURES, bytes(8))))
    ask.start()
    until(lambda: not rig.service._changes.settled)
    assert answers == []
    rig.port.worker_stuck = False
    ask.join(MAX_WAIT)
    assert answers == [(0, b"")]
    assert (rig.state(), rig.service.defects) == ("features", 0)


def test_a_device_that_was_taken_away_is_made_anew(rig: Rig) -> None:
    handle = rig.kernel.open()
    rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)
    assert rig.kernel_end is not None
    rig.kernel_end.shutdown(socket.SHUT_RDWR)
    until(lambda: len(rig.made) == 2)
    until(lambda: rig.state() == "listening")
    assert rig.port.of("set_link") == [(True,), (False,)]
    assert rig.kernel.ioctl(rig.kernel.open(), IoctlNumber.SET_OWNER) == (0, b"")


def test_an_internal_error_is_an_errno_to_the_caller_who_does_not_wait_for_ever(rig: Rig) -> None:
    handle = rig.kernel.open()
    rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER)
    rig.port.error = RuntimeError("a defect")
    assert rig.kernel.ioctl(handle, IoctlNumber.SET_FEATURES, bytes(8)) == (5, b"")
    rig.port.error = None
    until(lambda: rig.service.defects >= 1)
    until(lambda: rig.state() == "listening")
    assert rig.kernel.ioctl(handle, IoctlNumber.SET_OWNER) == (0, b"")


def test_noise_from_the_kernel_ends_nothing(rig: Rig) -> None:
    assert rig.kernel_end is not None
    rig.kernel_end.send(b"x" * 20)
    assert rig.kernel.ioctl(rig.kernel.open(), IoctlNumber.SET_OWNER) == (0, b"")


# The device itself


class FakeDriver:
    """/dev/cuse: asks for an introduction and makes the device, or says that its numbers are taken."""

    def __init__(self, directory: Path, *, taken: int = 0, first: bytes | None = None, silent: bool = False) -> None:
        self.directory = directory
        self.taken = taken
        self.first = first if first is not None else request(4096, struct.pack("=IIII", 7, 38, 0, 1))
        self.silent = silent
        self.numbers: list[tuple[int, int]] = []
        self._threads: list[threading.Thread] = []

    def open(self, path: str, _flags: int) -> int:
        assert path == "/dev/cuse"
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        thread = threading.Thread(target=self._serve, args=(kernel,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return ours.detach()

    def _serve(self, kernel: socket.socket) -> None:
        with kernel:
            kernel.settimeout(MAX_WAIT)
            if not self.silent:
                kernel.send(self.first)
            with contextlib.suppress(OSError):
                answer = kernel.recv(1 << 16)
                if answer:
                    self.numbers.append(struct.unpack_from("=II", answer, 16 + 24))
                    if len(self.numbers) > self.taken:
                        (self.directory / answer[16 + 72 + 8 : -1].decode()).touch()
                        kernel.recv(1)  # until it is closed

    def join(self) -> None:
        for thread in self._threads:
            thread.join(MAX_WAIT)


def make(tmp_path: Path, driver: FakeDriver, mode: int = 0o660, group: str | None = None) -> CuseDevice:
    return CuseDevice("fv0", mode, group, directory=str(tmp_path), opened=driver.open)


def test_the_device_gets_vhost_nets_major_number_and_its_permissions(tmp_path: Path) -> None:
    driver = FakeDriver(tmp_path)
    device = make(tmp_path, driver, 0o620, str(os.getgid()))
    assert driver.numbers[0][0] == MISC_MAJOR
    assert stat.S_IMODE((tmp_path / "fv0").stat().st_mode) == 0o620
    device.close()
    device.close()
    driver.join()


def test_where_all_of_that_major_is_taken_the_kernel_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(tmp_path, taken=3)
    poll_error(monkeypatch)
    make(tmp_path, driver).close()
    assert [major for major, _ in driver.numbers] == [MISC_MAJOR] * 3 + [0]
    driver.join()


def poll_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed socket reports POLLHUP, an aborted device POLLERR."""
    real = device_module.select.poll

    class Poller:
        def __init__(self) -> None:
            self._poll = real()
            self.register: Callable[..., None] = self._poll.register

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            hup, err = device_module.select.POLLHUP, device_module.select.POLLERR
            return [(fd, events | (err if events & hup else 0)) for fd, events in self._poll.poll(timeout)]

    monkeypatch.setattr(device_module.select, "poll", Poller)


def test_a_name_that_is_there_already_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "fv0").write_text("mine")
    with pytest.raises(ServiceError, match="exists already"):
        make(tmp_path, FakeDriver(tmp_path))
    assert (tmp_path / "fv0").read_text() == "mine"


def test_a_host_without_cuse_hears_how_to_get_it(tmp_path: Path) -> None:
    def missing(path: str, _flags: int) -> int:
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(ServiceError, match="modprobe cuse") as refusal:
        CuseDevice("fv0", 0o660, None, directory=str(tmp_path), opened=missing)
    assert refusal.value.cause == "os"


def test_a_user_who_may_not_open_it_hears_that(tmp_path: Path) -> None:
    def forbidden(path: str, _flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(ServiceError, match="Permission denied; run fwd as root"):
        CuseDevice("fv0", 0o660, None, directory=str(tmp_path), opened=forbidden)


@pytest.mark.parametrize(
    "first",
    [b"x", request(14, bytes(8)), request(4096, bytes(15)), request(4096, struct.pack("=IIII", 8, 0, 0, 1))],
)
def test_a_kernel_that_speaks_something_else_is_refused(tmp_path: Path, first: bytes) -> None:
    driver = FakeDriver(tmp_path, first=first)
    before = open_fds()
    with pytest.raises(ServiceError, match="cannot be made"):
        make(tmp_path, driver)
    driver.join()
    assert open_fds() == before


def test_a_silent_kernel_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "MAX_WAIT", 0.1)
    driver = FakeDriver(tmp_path, silent=True)
    with pytest.raises(ServiceError, match="does not answer"):
        make(tmp_path, driver)
    driver.join()


def test_an_unknown_group_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no such group"):
        make(tmp_path, FakeDriver(tmp_path), group="no-such-group")
