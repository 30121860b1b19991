"""The contract of dataplane/port.pxd, for every kind of port without another end, and for some with one."""

from __future__ import annotations

import contextlib
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import pytest

from fastvhost.control.kinds import KINDS
from fastvhost.control.policy import Policy
from fastvhost.control.port_spec import PortSpec
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import Port
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.tap import TapPort
from tests.driver import Memory
from tests.probes.contract import Caller
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, RING_F_INDIRECT_DESC, GuestPort, frame

NOTHING_TO_WAIT_FOR, LOOK_AGAIN = -2, -1
MOST_FRAMES = 64
THREE = [[frame(0)], [frame(1)[:20], frame(1)[20:]], [frame(2)]]
"""Frames to be delivered, one of them in two pieces."""


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


# Every kind, with nothing at its other end


@pytest.fixture(params=[pytest.param(kind, id=name) for name, kind in KINDS.items()])
def lone(request: pytest.FixtureRequest) -> Iterator[Port]:
    kind = request.param
    port = kind.make_port(PortSpec(kind, "x", Policy("x")), Door())
    yield port
    port.close()


def test_a_port_without_another_end_has_a_pair_and_nothing_to_receive(lone: Port) -> None:
    caller = Caller(lone)
    there, active = caller.pairs
    assert 1 <= active <= there
    assert caller.receive() == 0
    assert caller.counted == (0, 0, 0)
    assert not caller.has_silent_work()
    caller.is_open(), caller.may_receive()
    assert caller.counted == (0, 0, 0)


def test_what_would_wake_a_worker_is_there_or_is_not(lone: Port) -> None:
    caller = Caller(lone)
    for wanted in (True, False):
        fd, kicked = caller.wait_fd()
        assert not kicked
        assert fd in (NOTHING_TO_WAIT_FOR, LOOK_AGAIN) or not is_readable(fd)
        caller.want_kicks(wanted)


def test_each_frame_for_a_port_without_another_end_is_counted_once_or_waits(lone: Port) -> None:
    caller = Caller(lone)
    assert caller.deliver([]) == (0, 0, 0, 0, 0)
    done, frames, counted_bytes, drops, _ = caller.deliver(THREE)
    assert done == frames + drops
    assert counted_bytes == sum(len(b"".join(pieces)) for pieces in THREE[:frames])
    assert drops in (0, done)


# Kinds whose other end can be a test


class Scene(ABC):
    """A port, with functions that send to it and receive from it."""

    port: Port

    @abstractmethod
    def send(self, data: bytes) -> None:
        """A frame to the port."""

    @abstractmethod
    def room(self, n: int) -> None:
        """For so many frames, where that has to be made."""

    @abstractmethod
    def arrived(self) -> list[bytes]:
        """What the port delivered."""

    @abstractmethod
    def close(self) -> None:
        """What was made."""


class OfGuest(Scene):
    def __init__(self, features: int) -> None:
        self.guest = GuestPort(Door(), "a", Memory.of(8 * MIB), 256, features)
        self.guest.connect()
        self.port = self.guest.port

    def send(self, data: bytes) -> None:
        self.guest.driver.send(data)

    def room(self, n: int) -> None:
        self.guest.driver.post(n)

    def arrived(self) -> list[bytes]:
        return self.guest.driver.receive_all()

    def close(self) -> None:
        self.guest.close()


class OfTap(Scene):
    def __init__(self) -> None:
        self.peer, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.setblocking(False)
        self.own = own
        self.peer.setblocking(False)
        self.port = port = TapPort("t", Door())
        port.attach([own.fileno()])
        port.set_link(True)

    def send(self, data: bytes) -> None:
        self.peer.send(data)

    def room(self, n: int) -> None:
        """The kernel's."""

    def arrived(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.peer.recv(65536))
        return found

    def close(self) -> None:
        self.peer.close()
        self.own.close()


class OfEndpoint(Scene):
    def __init__(self) -> None:
        self.port = self.endpoint = Endpoint("e", Door(), slots=256, slot_bytes=2048)

    def send(self, data: bytes) -> None:
        assert self.endpoint.send([data], 0) == 1

    def room(self, n: int) -> None:
        """Half of its slots."""

    def arrived(self) -> list[bytes]:
        with self.endpoint.recv(timeout=0) as burst:
            return [bytes(one) for one in burst]

    def close(self) -> None:
        self.endpoint.end()


SCENES: dict[str, Callable[[], Scene]] = {
    "split": lambda: OfGuest(F_VERSION_1 | RING_F_INDIRECT_DESC),
    "packed": lambda: OfGuest(F_VERSION_1 | F_RING_PACKED),
    "tap": OfTap,
    "endpoint": OfEndpoint,
}


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = SCENES[request.param]()
    yield made
    made.close()


def test_frames_are_received_in_order_stay_until_they_are_released_and_are_counted_once(scene: Scene) -> None:
    caller, sent = Caller(scene.port), [frame(number) for number in range(100)]
    for data in sent:
        scene.send(data)
    assert caller.is_open()
    got = []
    while caller.may_receive() and (n := caller.receive()):
        first = caller.frames()
        scene.send(frame(1000))  # what comes meanwhile changes none of them
        sent.append(frame(1000))
        assert caller.frames() == first
        got += first
        caller.release(0, n // 2)
        assert caller.frames()[n // 2 :] == first[n // 2 :]
        caller.release(n // 2, n - n // 2)
        if len(got) > 100:
            break
    assert len(got) > MOST_FRAMES
    assert got == sent[: len(got)]
    assert caller.counted == (len(got), sum(map(len, got)), 0)


def test_a_frame_wakes_the_worker_that_asked_for_a_kick_or_is_silent_work(scene: Scene) -> None:
    caller = Caller(scene.port)
    fd, _ = caller.wait_fd()
    caller.want_kicks(True)
    assert not caller.has_silent_work()
    scene.send(frame(1))
    assert (fd >= 0 and is_readable(fd)) or caller.has_silent_work()
    caller.want_kicks(False)
    assert caller.receive() == 1
    caller.release(0, 1)
    assert not caller.has_silent_work()


def test_what_is_delivered_arrives_whole_in_order_and_counted(scene: Scene) -> None:
    caller = Caller(scene.port)
    scene.room(3)
    whole = [b"".join(pieces) for pieces in THREE]
    assert caller.deliver(THREE) == (3, 3, sum(map(len, whole)), 0, 0)
    assert scene.arrived() == whole


def test_what_there_is_no_room_for_waits_uncounted_and_behind_it_nothing_passes(scene: Scene) -> None:
    caller, sent, wanted = Caller(scene.port), 0, [frame(number) for number in range(4096)]
    scene.room(5)
    while sent < len(wanted):
        burst = [[data] for data in wanted[sent : sent + MOST_FRAMES]]
        done, frames, _, drops, spent = caller.deliver(burst)
        assert (frames, drops) == (done, 0)
        sent += done
        if done < len(burst) and not spent:
            break
    assert 5 <= sent < len(wanted)
    assert caller.deliver([[wanted[sent]]]) == (0, 0, 0, 0, 0)
    got = scene.arrived()
    while more := scene.arrived():
        got += more
    assert got == wanted[:sent]
