"""The contract of dataplane/port.pxd, for every kind of port without another end, and for some with one."""

from __future__ import annotations

import contextlib
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import pytest

from fastvhost.backend.features import NET_F_MRG_RXBUF, OFFLOADS, mask
from fastvhost.control.kinds import KINDS
from fastvhost.control.policy import Policy
from fastvhost.control.port_spec import PortSpec
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.offload.asked import Offload
from fastvhost.dataplane.port import Port
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.tap import TapPort
from tests.driver import NET_HEADER, Memory
from tests.probes.contract import Caller
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, RING_F_INDIRECT_DESC, GuestPort, frame
from tests.unit.test_segmentation import check, super_frame

Head = tuple[int, int, int, int, int, int]
"""Of a virtio-net header: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""

NOTHING_TO_WAIT_FOR, LOOK_AGAIN = -2, -1
MOST_FRAMES = 64
THREE = [[frame(0)], [frame(1)[:20], frame(1)[20:]], [frame(2)]]
"""Frames to be delivered, one of them in two pieces."""
SUMMED: Head = (1, 0, 0, 0, 34, 16)
SUPER: Head = (1, 1, 66, 1448, 34, 16)


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


def test_a_super_frame_for_a_port_without_another_end_is_counted_once_or_waits(lone: Port) -> None:
    done, frames, _, drops, _ = Caller(lone).deliver([[super_frame(bytes(5000))]], [SUPER])
    counters = lone.counters()
    assert done == frames + drops + counters.cut - counters.segmented


# Kinds whose other end can be a test


class Scene(ABC):
    """A port, with functions that send to it and receive from it."""

    port: Port
    takes_heads = False
    """Whether it gets super-frames whole, and checksums unfinished; it may send such frames then, too."""

    @abstractmethod
    def send(self, data: bytes, head: Head | None = None) -> None:
        """A frame to the port."""

    @abstractmethod
    def room(self, n: int) -> None:
        """For so many frames, where that has to be made."""

    @abstractmethod
    def arrived_so(self) -> list[tuple[bytes, Head | None]]:
        """What the port delivered, and what it says is left to be done."""

    def arrived(self) -> list[bytes]:
        """What the port delivered."""
        return [data for data, _ in self.arrived_so()]

    @abstractmethod
    def close(self) -> None:
        """What was made."""


class OfGuest(Scene):
    def __init__(self, features: int) -> None:
        self.guest = GuestPort(Door(), "a", Memory.of(8 * MIB), 256, features)
        self.guest.connect()
        self.port = self.guest.port
        self.takes_heads = features & OFFLOADS == OFFLOADS

    def send(self, data: bytes, head: Head | None = None) -> None:
        self.guest.driver.send(data, self.guest.driver.header(*(head or ())))

    def room(self, n: int) -> None:
        self.guest.driver.post(n)

    def arrived_so(self) -> list[tuple[bytes, Head | None]]:
        found = []
        while data := self.guest.driver.receive_if_there():
            found.append((data, head_in(self.guest.driver.received_header)))
        return found

    def close(self) -> None:
        self.guest.close()


class OfTap(Scene):
    def __init__(self) -> None:
        self.peer, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.setblocking(False)
        self.own = own
        self.peer.setblocking(False)
        self.port = port = TapPort("t", Door())
        port.attach([own.fileno()], udp_segments=True)
        port.set_link(True)

    takes_heads = True

    def send(self, data: bytes, head: Head | None = None) -> None:
        self.peer.send(NET_HEADER.pack(*(head or (0,) * 6), 0) + data)

    def room(self, n: int) -> None:
        """The kernel's."""

    def arrived_so(self) -> list[tuple[bytes, Head | None]]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while data := self.peer.recv(70_000):
                found.append((data[NET_HEADER.size :], head_in(data[: NET_HEADER.size])))
        return found

    def close(self) -> None:
        self.peer.close()
        self.own.close()


class OfEndpoint(Scene):
    def __init__(self, *, offloads: bool) -> None:
        self.port = self.endpoint = Endpoint("e", Door(), slots=256, offloads=offloads)
        self.takes_heads = offloads

    def send(self, data: bytes, head: Head | None = None) -> None:
        with self.endpoint.lend(1, len(data), 0) as burst:
            burst[0][:] = data
            if head is not None:
                flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = head
                burst.set_offload(0, Offload(bool(flags), csum_start, csum_offset, gso_type, gso_size, hdr_len))
            assert self.endpoint.send(burst) == 1

    def room(self, n: int) -> None:
        """Half of its slots."""

    def arrived_so(self) -> list[tuple[bytes, Head | None]]:
        found: list[tuple[bytes, Head | None]] = []
        with self.endpoint.recv(timeout=0) as burst:
            for index, data in enumerate(burst):
                sum_, start, offset, gso_type, gso_size, hdr_len = burst.offload(index)
                head = (int(sum_), gso_type, hdr_len, gso_size, start, offset)
                found.append((bytes(data), head if any(head) else None))
        return found

    def close(self) -> None:
        self.endpoint.end()


def head_in(header: bytes) -> Head | None:
    """None: it says that the frame is plain."""
    head: Head = NET_HEADER.unpack(header)[:6]
    return head if any(head) else None


ALL = OFFLOADS | mask(NET_F_MRG_RXBUF) | F_VERSION_1
SCENES: dict[str, Callable[[], Scene]] = {
    "split": lambda: OfGuest(F_VERSION_1 | RING_F_INDIRECT_DESC),
    "packed": lambda: OfGuest(F_VERSION_1 | F_RING_PACKED),
    "split with offloads": lambda: OfGuest(ALL),
    "packed with offloads": lambda: OfGuest(ALL | F_RING_PACKED),
    "tap": OfTap,
    "endpoint": lambda: OfEndpoint(offloads=False),
    "endpoint with offloads": lambda: OfEndpoint(offloads=True),
}


HEADED = [name for name in SCENES if name == "tap" or name.endswith("with offloads")]


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


def test_what_a_frame_leaves_to_others_arrives_so_or_is_done(scene: Scene) -> None:
    caller = Caller(scene.port)
    scene.room(16)
    payload = bytes(range(251)) * 20
    whole, short = super_frame(payload), super_frame(b"an odd one")
    given = [[short[:41], short[41:]], [whole[:1001], whole[1001:3000], whole[3000:]], [frame(1)]]
    heads, done, frames = [SUMMED, SUPER], 0, 0
    for _ in range(8):  # visits
        dealt_with, delivered, _, drops, _ = caller.deliver(given[done:], heads[done:])
        done, frames = done + dealt_with, frames + delivered
        assert drops == 0
        if done == len(given):
            break
    got, counters = scene.arrived_so(), scene.port.counters()
    while more := scene.arrived_so():
        got += more
    assert (done, len(got)) == (len(given), frames)
    assert frames + counters.cut - counters.segmented == done
    if scene.takes_heads:
        assert got == [(short, SUMMED), (whole, SUPER), (frame(1), None)]
        return
    assert all(head is None for _, head in got)
    assert [check(got[0][0]), got[-1][0]] == [b"an odd one", frame(1)]
    assert [len(data) for data, _ in got[1:-1]] == [66 + 1448] * 3 + [66 + len(payload) - 3 * 1448]
    assert b"".join(check(data) for data, _ in got[1:-1]) == payload


@pytest.mark.parametrize("scene", HEADED, indirect=True)
def test_what_a_frame_that_comes_leaves_to_others_is_its_head(scene: Scene) -> None:
    caller, whole, short = Caller(scene.port), super_frame(bytes(5000)), super_frame(b"1")
    for data, head in ((short, SUMMED), (frame(1), None), (whole, SUPER)):
        scene.send(data, head)
    assert caller.receive() == 3
    assert caller.frames() == [short, frame(1), whole]
    assert caller.heads() == [SUMMED, None, SUPER]
    caller.release(0, 3)
    scene.send(frame(2))  # the next burst begins without heads
    assert caller.receive() == 1
    assert caller.heads() == [None]
    caller.release(0, 1)
    assert caller.counted == (4, len(short) + len(whole) + 2 * len(frame(1)), 0)
