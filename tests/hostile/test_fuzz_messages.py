"""Fuzzing of the parser and of a live session: 60 s in all, the same examples in the same order every time.

Whatever arrives, the parser answers with a message or its own error, and a session costs its front-end no more than
its connection: no other exception, every file descriptor and mapping given back, the control thread alive, the next
front-end served.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.guests.short_dir import short_dir
from fastvhost.control.switch import STOP_SECONDS
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.frontend.payload import U64, Region, VringAddr, VringState
from fastvhost.vhostuser import message
from fastvhost.vhostuser.message import MalformedError, Request
from fastvhost.vhostuser.service import VhostUserService
from fastvhost.vhostuser.session import HANDLERS
from tests.frontend import Frontend

PARSER_SECONDS = 15
SESSION_SECONDS = 45
EXAMPLES = 50
"""In one round; rounds of other seeds follow until the time is over."""

KINDS: list[type[message.AnyPayload]] = sorted(
    {row.payload for row in HANDLERS.values()}, key=lambda kind: kind.__name__
)


def fuzz(seconds: float, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> int:
    """Run the check over examples of fixed seeds until the time is over. Returns how many there were."""
    end = time.monotonic() + seconds
    n = itertools.count()

    def counted(example: Any) -> None:
        if time.monotonic() < end:
            check(example)
            next(n)

    config = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    for number in itertools.count():
        if time.monotonic() >= end:
            break
        seed(number)(config(given(strategy)(counted)))()
    return next(n)


# Values that have broken somebody

MEMORY_BYTES = 1 << 20
GUEST_ADDR, USER_ADDR = 0x1000_0000, 0x7000_0000_0000
INDICES = (0, 1, 0, 1, 0, 1, 2, 3, 255, 256, 0x10000, 2**32 - 1)
NUMBERS = (0, 1, 2, 3, 16, 68, 256, 256, 1024, 1500, 32768, 32769, 65535, 65536, 2**31, 2**32 - 1)
RINGS = tuple(USER_ADDR + offset for offset in (0, 0x4000, 0x8000, 0x10000, 0x14000, 0x18000))
LONGS = (
    0,
    1,
    2,
    15,
    255,
    256,
    257,
    1 << 30,
    1 << 32,
    5 << 30,
    2**63,
    2**64 - 1,
    GUEST_ADDR,
    MEMORY_BYTES,
    4096,
    *RINGS,
)
REGION = Region(GUEST_ADDR, MEMORY_BYTES, USER_ADDR, 0)


class Dice(random.Random):
    """Payloads that are well-formed, made of such values."""

    def long(self) -> int:
        return self.choice((*LONGS, self.getrandbits(64)))

    def region(self) -> Region:
        if self.random() < 0.6:
            return REGION
        shift = self.choice((0, MEMORY_BYTES, 4096, 2**63))
        if self.random() < 0.6:
            return Region(GUEST_ADDR + shift, self.choice((4096, MEMORY_BYTES)), USER_ADDR + shift, 0)
        return Region(self.long(), self.long(), self.long(), self.long())

    def payload(self, kind: type[message.AnyPayload]) -> message.AnyPayload:
        index = self.choice(INDICES)
        if kind is U64:
            return U64(self.long())
        if kind is message.VringFd:
            return message.VringFd(
                self.randrange(2) if self.random() < 0.9 else self.randrange(256), self.random() < 0.2
            )
        if kind is VringState:
            return VringState(index, self.choice(NUMBERS))
        if kind is VringAddr:
            ring = (index & 1) * 3
            addresses = RINGS[ring : ring + 3] if self.random() < 0.7 else [self.long() for _ in range(3)]
            return VringAddr(index, self.randrange(4), addresses[0], addresses[2], addresses[1], self.long())
        if kind is message.SingleRegion:
            return message.SingleRegion(self.region())
        if kind is message.MemoryTable:
            return message.MemoryTable(tuple(self.region() for _ in range(self.choice((0, 1, 1, 1, 2, 8)))))
        return message.LogBase(bytes(self.choice((0, 8, 16)))) if kind is message.LogBase else message.Nothing()

    def spoiled(self, data: bytes) -> bytes:
        """A few bytes of it replaced."""
        spoiled = bytearray(data)
        for _ in range(self.randrange(4) if data else 0):
            spoiled[self.randrange(len(data))] = self.choice((0, 1, 2, 8, 9, 0x7F, 0x80, 0xFF, self.randrange(256)))
        return bytes(spoiled)


# The parser


def test_the_parser_returns_a_message_or_its_own_error() -> None:
    def parse(header: bytes, kind: type[message.AnyPayload], data: bytes) -> None:
        with contextlib.suppress(MalformedError):
            decoded = message.decode_header(header)
            assert decoded.size <= message.MAX_PAYLOAD
            assert (decoded.flags & 7) == 1
        with contextlib.suppress(MalformedError):
            payload = message.decode_payload(kind, data)
            assert kind.LEAST <= len(data) <= kind.MOST
            assert message.decode_payload(kind, payload.encode()) == payload

    def check(example: tuple[bytes, bytes, int]) -> None:
        header, data, number = example
        dice = Dice(number)
        for kind in KINDS:
            parse(header, kind, data)
            for _ in range(20):
                good = dice.payload(kind).encode()
                parse(dice.spoiled(header), kind, dice.spoiled(good))
                parse(message.HEADER.pack(dice.randrange(50), dice.choice((1, 9)), len(good)), kind, good)

    examples = st.tuples(st.binary(min_size=12, max_size=12), st.binary(max_size=300), st.integers(0, 2**32))
    assert fuzz(PARSER_SECONDS, examples, check) > 50


# A live session


class Sent(NamedTuple):
    """One message as a hostile front-end sends it."""

    data: bytes
    fds: tuple[str, ...]
    pieces: tuple[int, ...]
    """Where it is cut, so that it arrives bit by bit."""


FILES: dict[str, Callable[[], int]] = {
    "eventfd": lambda: os.eventfd(1, os.EFD_NONBLOCK),
    "full": lambda: _full(),
    "memory": lambda: _memory(MEMORY_BYTES),
    "empty": lambda: _memory(0),
    "null": lambda: os.open("/dev/null", os.O_RDWR),
    "zero": lambda: os.open("/dev/zero", os.O_RDWR),
    "directory": lambda: os.open("/", os.O_RDONLY),
    "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "read-only": lambda: os.open("/proc/self/stat", os.O_RDONLY),
}


def _memory(size: int) -> int:
    fd = os.memfd_create("fuzz")
    os.ftruncate(fd, size)
    return fd


def _full() -> int:
    fd = os.eventfd(0)  # blocking, and the next write would block
    os.eventfd_write(fd, 2**64 - 2)
    return fd


def honest(number: int, payload: message.Payload | None, *fds: str) -> Sent:
    return Sent(message.encode_request(number, payload), fds, ())


def prologue(steps: int) -> list[Sent]:
    """The first steps of an honest front-end: what follows then meets a session that has something to lose."""
    messages = [
        honest(Request.SET_PROTOCOL_FEATURES, U64(0x1A019)),
        honest(Request.SET_FEATURES, U64(1 << 32 | 1 << 30 | 1 << 28 | 1 << 15)),
        honest(Request.SET_MEM_TABLE, message.MemoryTable((REGION,)), "memory"),
    ]
    for index in (0, 1):
        desc, avail, used = RINGS[3 * index : 3 * index + 3]
        messages += [
            honest(Request.SET_VRING_NUM, VringState(index, 256)),
            honest(Request.SET_VRING_ADDR, VringAddr(index, 0, desc, used, avail, 0)),
            honest(Request.SET_VRING_CALL, message.VringFd(index, False), "eventfd"),
            honest(Request.SET_VRING_ERR, message.VringFd(index, False), "eventfd"),
            honest(Request.SET_VRING_KICK, message.VringFd(index, False), "eventfd"),
            honest(Request.SET_VRING_ENABLE, VringState(index, 1)),
        ]
    return messages[:steps]


def hostile(dice: Dice) -> Sent:
    """One message. Most ask for an acknowledgement, so that a refusal is not the end."""
    number = dice.choice(sorted(HANDLERS)) if dice.random() < 0.97 else dice.choice((0, 19, 21, 23, 35, 2**32 - 1))
    row = HANDLERS.get(number)
    payload = dice.payload(row.payload if row else dice.choice(KINDS))
    data = payload.encode()
    if dice.random() < 0.1:
        data = dice.spoiled(data)[: dice.choice((len(data), len(data) - 1, 300))] + bytes(dice.choice((0, 0, 1, 8)))
    flags = dice.choice((9,) * 30 + (1,) * 6 + (5, 2, 0xFFFFFFFB))
    size = len(data) if dice.random() < 0.98 else dice.choice((len(data) + 1, len(data) + 8, 0, 4096, 4097, 2**32 - 1))
    fds: tuple[str, ...] = ()
    if isinstance(payload, message.MemoryTable):
        fds = ("memory",) * len(payload.regions)
    elif isinstance(payload, message.VringFd):
        fds = () if payload.no_fd else (dice.choice(("eventfd", "full")),)
    elif number == Request.ADD_MEM_REG:
        fds = ("memory",)
    if dice.random() < 0.1:
        fds = tuple(dice.choice(sorted(FILES)) for _ in range(dice.choice((0, 1, 1, 2, 8, 9, 20))))
    pieces = tuple(sorted(dice.sample(range(1, 60), dice.randrange(1, 4)))) if dice.random() < 0.2 else ()
    return Sent(message.HEADER.pack(number, flags, size & 0xFFFFFFFF) + data, fds, pieces)


class Target:
    """A real port with a running worker, and the service that is attacked."""

    def __init__(self, directory: Path) -> None:
        door = Door()
        self.path = directory / "a.sock"
        self.port = VirtioPort("a", door, 1)
        self.worker = Worker(door)
        self.worker.add_wire(self.port, None, hold=False, hold_timeout_ms=100)
        self.service = VhostUserService(str(self.path), self.port)
        self.service.open()
        self.polling = threading.Thread(target=self.worker.run)
        self.polling.start()
        self.service.start()
        (self.control,) = (thread for thread in threading.enumerate() if thread.name == "control a")
        self.files = {name: make() for name, make in FILES.items()}
        self.baseline = open_fds()

    def close(self) -> None:
        for fd in self.files.values():
            os.close(fd)
        self.service.stop(STOP_SECONDS)
        self.worker.stop()
        self.polling.join()
        self.port.close()

    def attack(self, messages: list[Sent]) -> None:
        """One connection, and what must hold after it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect(str(self.path))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be closed on us at any point
                for sent in messages:
                    self._send(sock, sent)
                sock.shutdown(socket.SHUT_WR)
            # It closes its end when it has handled all there was, or earlier.
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
        self.check()

    def _send(self, sock: socket.socket, sent: Sent) -> None:
        ancillary = []
        if sent.fds:
            fds = array.array("i", [self.files[name] for name in sent.fds])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        cuts = [0, *(cut for cut in sent.pieces if cut < len(sent.data)), len(sent.data)]
        for start, end in itertools.pairwise(cuts):
            if start < end:
                sock.sendmsg([sent.data[start:end]], ancillary)
                ancillary = []

    def check(self) -> None:
        """The connection is over: everything is as it was before, and nothing went wrong in between."""
        deadline = time.monotonic() + 2.5
        while self.service.describe()["state"] != "listening" or open_fds() != self.baseline:
            assert time.monotonic() < deadline, f"{self.service.describe()}, {open_fds()} fds of {self.baseline}"
            time.sleep(0.0002)
        assert self.service.defects == 0
        assert self.control.is_alive()
        assert self.polling.is_alive()


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def target() -> Iterator[Target]:
    with short_dir() as directory:
        target = Target(directory)
        yield target
        target.close()
    maps = Path("/proc/self/maps").read_text()
    assert "memfd:fuzz" not in maps


def test_a_session_survives_any_sequence_of_messages(target: Target) -> None:
    def check(example: tuple[int, int, bytes]) -> None:
        number, steps, rest = example
        dice = Dice(number)
        for _ in range(4):
            target.attack([*prologue(steps), *(hostile(dice) for _ in range(dice.randrange(40))), Sent(rest, (), ())])

    examples = st.tuples(st.integers(0, 2**32), st.integers(0, len(prologue(99))), st.binary(max_size=40))
    assert fuzz(SESSION_SECONDS, examples, check) > 50
    honest = Frontend.connect(target.path)
    assert honest.ask_u64(Request.GET_QUEUE_NUM) == 1
    honest.close()
