"""Ports of all kinds towards this host change at the door: whole or not at all, and put into effect by a worker."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door, WorkerStuckError
from fastvhost.dataplane.ports.host_port import HostPort
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.dataplane.ports.pcap import Capture, PcapPort
from fastvhost.dataplane.ports.tap import TapPort
from fastvhost.dataplane.ports.xdp import XdpPort
from fastvhost.dataplane.ports.xdp_socket import XdpSocket
from fastvhost.hostside import interfaces
from tests.unit.stuck_worker import StuckWorker

SHORT = 0.05
"""Seconds that a test waits for a worker that does not come."""
BLOCK_BYTES = 1 << 16
CLONE_NEWNET = 0x40000000
Made = TypeVar("Made", Capture, XdpSocket)


def in_a_network_of_its_own(make: Callable[[], Made]) -> Made:
    """A network namespace in which interfaces are made; this process stays outside."""

    def there() -> Made:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        interfaces.set_up("lo")
        return make()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(there).result(MAX_WAIT)


class Kind(ABC):
    """A real port of one kind, and what can be attached to it."""

    port: HostPort

    @abstractmethod
    def attach(self) -> None:
        """Something that no port has."""

    @abstractmethod
    def all_free(self) -> bool:
        """Whether no port uses the attached files, in effect or not."""

    @abstractmethod
    def close(self) -> None:
        """What was made."""


class Tap(Kind):
    def __init__(self, door: Door) -> None:
        self.port = self._port = TapPort("x", door)
        self._fds: list[int] = []

    def attach(self) -> None:
        self._fds.append(os.eventfd(0, os.EFD_NONBLOCK))
        self._port.attach(self._fds[-1:])

    def all_free(self) -> bool:
        return True  # numbers, which nobody holds

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


class Packet(Kind):
    def __init__(self, door: Door) -> None:
        self.port = self._port = PacketPort("x", door)
        self._rings: list[mmap.mmap] = []
        self._nothing = os.open(os.devnull, os.O_RDWR)

    def attach(self) -> None:
        self._rings.append(mmap.mmap(-1, BLOCK_BYTES))
        self._port.attach(self._rings[-1], BLOCK_BYTES, self._nothing, self._nothing, self._nothing)

    def all_free(self) -> bool:
        for ring in self._rings:
            with contextlib.suppress(BufferError):
                ring.close()
        return all(ring.closed for ring in self._rings)

    def close(self) -> None:
        os.close(self._nothing)


class Xdp(Kind):
    def __init__(self, door: Door) -> None:
        self.port = self._port = XdpPort("x", door)
        self._sockets: list[XdpSocket] = []

    def attach(self) -> None:
        self._sockets.append(in_a_network_of_its_own(lambda: XdpSocket(1, 0, copy=True)))
        self._port.attach(self._sockets[-1:], 1514)

    def all_free(self) -> bool:
        for one in self._sockets:
            one.close()
        return all(one.fd < 0 for one in self._sockets)

    def close(self) -> None:
        assert self.all_free()


class Pcap(Kind):
    def __init__(self, door: Door) -> None:
        self.port = self._port = PcapPort("x", door)
        self._captures: list[Capture] = []

    def attach(self) -> None:
        self._captures.append(in_a_network_of_its_own(lambda: Capture("lo", 1 << 20)))
        self._port.attach(self._captures[-1])

    def all_free(self) -> bool:
        other = PcapPort("y", Door())
        for one in self._captures:
            try:
                other.attach(one)
            except ValueError:  # a port has it
                return False
            other.detach()
        return True

    def close(self) -> None:
        for one in self._captures:
            one.close()


KINDS: dict[str, Callable[[Door], Kind]] = {"tap": Tap, "packet": Packet, "xdp": Xdp, "pcap": Pcap}


class Scene:
    """A port of this kind, and a worker with a lane from it that can be made to hang."""

    def __init__(self, kind: str) -> None:
        self.door = Door()
        self.kind = KINDS[kind](self.door)
        self.port = self.kind.port
        self.worker = StuckWorker(self.door, "worker3", self.port)

    @property
    def seen(self) -> tuple[bool, int]:
        return self.port.link_up, self.port.doors

    def close(self) -> None:
        self.worker.close()
        self.port.detach()
        assert self.kind.all_free()
        self.kind.close()


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(request.param)
    yield scene
    scene.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + MAX_WAIT
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def longest(port: HostPort) -> None:
    assert isinstance(port, XdpPort)
    port.set_longest(2000)


SETTERS: dict[str, Callable[[Scene], object]] = {
    "attach": lambda scene: scene.kind.attach(),
    "detach": lambda scene: scene.port.detach(),
    "set_link": lambda scene: scene.port.set_link(False),
}


@pytest.mark.parametrize("name", SETTERS)
def test_a_setter_changes_nothing_while_a_worker_is_stuck_and_all_once_it_is_back(scene: Scene, name: str) -> None:
    with scene.port.change(MAX_WAIT):
        scene.kind.attach()
        scene.port.set_link(True)
    before = scene.seen
    scene.worker.stick()
    for _ in range(2):
        with pytest.raises(WorkerStuckError, match="worker3 does not come to the door"), scene.port.change(SHORT):
            SETTERS[name](scene)
        assert scene.seen == before
    scene.worker.let_go()
    with scene.port.change(MAX_WAIT):
        SETTERS[name](scene)
    assert scene.seen == (name == "attach", before[1] + 1)


def test_the_longest_frame_is_another_one_only_once_a_worker_is_back() -> None:
    with contextlib.closing(Scene("xdp")) as scene:
        with scene.port.change(MAX_WAIT):
            scene.kind.attach()
        doors = scene.port.doors
        scene.worker.stick()
        with pytest.raises(WorkerStuckError), scene.port.change(SHORT):
            longest(scene.port)
        assert scene.port.doors == doors
        scene.worker.let_go()
        for _ in range(2):  # the second time it is no other one
            with scene.port.change(MAX_WAIT):
                longest(scene.port)
            assert scene.port.doors == doors + 1


def test_what_was_to_be_attached_is_let_go_of_where_a_worker_is_stuck(scene: Scene) -> None:
    scene.worker.stick()
    with pytest.raises(WorkerStuckError), scene.port.change(SHORT):
        scene.kind.attach()
    assert scene.kind.all_free()
    scene.worker.let_go()


def test_what_is_attached_is_let_go_of_once_the_next_is_in_effect(scene: Scene) -> None:
    for _ in range(3):
        with scene.port.change(MAX_WAIT):
            scene.kind.attach()
    with scene.port.change(MAX_WAIT):
        scene.port.detach()
    assert scene.kind.all_free()


def test_sockets_that_a_worker_never_saw_can_be_attached_once_it_is_back() -> None:
    """Those of which it saw the rings cannot: they do not start again."""
    with contextlib.closing(Scene("xdp")) as scene:
        port, sockets = scene.port, [in_a_network_of_its_own(lambda: XdpSocket(1, 0, copy=True))]
        assert isinstance(port, XdpPort)
        scene.worker.stick()
        with pytest.raises(WorkerStuckError), port.change(SHORT):
            port.attach(sockets, 1514)
        scene.worker.let_go()
        with port.change(MAX_WAIT):
            port.attach(sockets, 1514)
        with port.change(MAX_WAIT):
            port.detach()
        with pytest.raises(ValueError, match="was used before"):
            port.attach(sockets, 1514)
        sockets[0].close()


def test_a_block_takes_effect_at_once_and_one_that_raises_changes_nothing(scene: Scene) -> None:
    _, doors = scene.seen

    def half_done() -> None:
        with scene.port.change():
            scene.kind.attach()
            scene.port.set_link(True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert scene.seen == (False, doors)
    assert scene.kind.all_free()
    with scene.port.change(MAX_WAIT):
        scene.kind.attach()
        scene.kind.attach()
        scene.port.set_link(True)
        assert scene.seen == (False, doors)
    assert scene.seen == (True, doors + 1)


def test_where_nothing_changes_no_worker_is_asked(scene: Scene) -> None:
    doors = scene.port.doors
    scene.port.set_link(False)
    scene.port.detach()
    assert scene.port.doors == doors
    for act in (scene.kind.attach, scene.port.detach, scene.port.detach):
        with scene.port.change(MAX_WAIT):
            act()
    assert scene.port.doors == doors + 2


def test_the_worker_makes_the_change_whatever_control_does_meanwhile(scene: Scene) -> None:
    """The control thread may wait for a CPU, or for the GIL."""
    _, doors = scene.seen
    scene.worker.stick()
    scene.port.begin()
    scene.kind.attach()
    scene.port.set_link(True)
    assert not scene.port.commit(0.01)
    rounds = scene.worker.worker.rounds
    scene.worker.let_go()
    until(lambda: scene.port.link_up)
    until(lambda: scene.worker.worker.rounds > rounds + 100)
    with scene.port.change(MAX_WAIT):
        scene.port.detach()  # it learns of it now, and lets go of it
    assert scene.seen == (False, doors + 2)
    assert scene.kind.all_free()


def test_other_threads_run_while_a_port_waits_for_its_worker(scene: Scene) -> None:
    """Otherwise nobody would release the worker."""
    scene.worker.stick()
    thread = scene.worker.let_go_in_a_while()
    with scene.port.change(MAX_WAIT):
        scene.port.set_link(True)
        thread.start()
    thread.join()
    assert scene.port.link_up


def test_frames_are_read_from_what_is_attached_and_from_nothing_else() -> None:
    door = Door()
    port = TapPort("t", door)
    worker = StuckWorker(door, "worker", port)
    pipes = [os.pipe() for _ in range(2)]
    for end, _ in pipes:
        os.set_blocking(end, False)
    for number, (end, other) in enumerate(pipes):
        with port.change(MAX_WAIT):
            port.attach([end])
        os.write(other, bytes(60))
        until(lambda expected=number + 1: port.counters().rx_frames == expected)
    os.write(pipes[0][1], bytes(60))
    with port.change(MAX_WAIT):
        port.detach()
    os.write(pipes[1][1], bytes(60))
    rounds = worker.worker.rounds
    until(lambda: worker.worker.rounds > rounds + 100)
    assert port.counters().rx_frames == 2
    worker.close()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
