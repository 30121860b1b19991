"""Fuzzing of the parser and of a live session: as many examples, and the same ones, every time.

Whatever arrives, the parser answers with a message or its own error, and a session costs its front-end no more than
its connection: no other exception, every file descriptor and mapping given back, the control thread alive, the next
front-end served. Hypothesis makes the examples, and makes one that fails as small as it can before it shows it.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.vhostuser import message
from fastvhost.vhostuser.message import MalformedError, Request
from fastvhost.vhostuser.service import VhostUserService
from fastvhost.vhostuser.session import HANDLERS
from tests.frontend import Frontend
from tests.hostile.conftest import endurance

PARSED = 500
"""Examples for the parser, each for all payloads; with --long more."""
SESSIONS = 250
"""Connections."""

KINDS: list[type[message.AnyPayload]] = sorted(
    {row.payload for row in HANDLERS.values()}, key=lambda kind: kind.__name__
)


def fuzz(n: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run the check over n examples. Which these are, depends on nothing but the strategy."""
    config = settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    config(given(strategy)(check))()


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
REGION = SharedRegion(GUEST_ADDR, MEMORY_BYTES, USER_ADDR, 0)


# Payloads that are well-formed, made of such values

Payloads = st.SearchStrategy[message.AnyPayload]


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The first one two times of three, and where an example is made smaller."""
    return st.one_of(usual, usual, st.one_of(*others))


index = st.sampled_from(INDICES)
long = st.one_of(st.sampled_from(LONGS), st.integers(0, 2**64 - 1))
shifted = st.builds(
    lambda shift, size: SharedRegion((GUEST_ADDR + shift) % 2**64, size, (USER_ADDR + shift) % 2**64, 0),
    st.sampled_from((0, MEMORY_BYTES, 4096, 2**63)),
    st.sampled_from((4096, MEMORY_BYTES)),
)
region = mostly(st.just(REGION), shifted, st.builds(SharedRegion, long, long, long, long))


@st.composite
def ring_addresses(draw: st.DrawFn) -> VringAddr:
    number = draw(index)
    ring = (number & 1) * 3
    good = st.just(RINGS[ring : ring + 3])
    desc, avail, used = draw(mostly(good, st.tuples(long, long, long)))
    return VringAddr(number, draw(st.integers(0, 3)), desc, used, avail, draw(long))


PAYLOADS: dict[type[message.AnyPayload], Payloads] = {
    U64: st.builds(U64, long),
    message.VringFd: st.builds(
        message.VringFd, mostly(st.integers(0, 1), st.integers(0, 255)), mostly(st.just(False), st.just(True))
    ),
    VringState: st.builds(VringState, index, st.sampled_from(NUMBERS)),
    VringAddr: ring_addresses(),
    message.SingleRegion: st.builds(message.SingleRegion, region),
    message.MemoryTable: st.builds(
        lambda regions: message.MemoryTable(tuple(regions)),
        mostly(st.tuples(region), st.lists(region, max_size=2), st.lists(region, min_size=8, max_size=8)),
    ),
    message.LogBase: st.builds(message.LogBase, st.sampled_from((bytes(8), bytes(16), b""))),
    message.DeviceConfig: st.builds(
        message.DeviceConfig,
        mostly(st.sampled_from((0, 1, 6, 8, 10, 12)), st.sampled_from(NUMBERS)),
        st.integers(0, 3),
        mostly(st.binary(max_size=12), st.binary(min_size=256, max_size=256)),
    ),
    message.Nothing: st.builds(message.Nothing),
}
ODD_BYTES = st.one_of(st.sampled_from((0, 1, 2, 8, 9, 0x7F, 0x80, 0xFF)), st.integers(0, 255))
CHANGES = st.lists(st.tuples(st.integers(0, 299), ODD_BYTES), max_size=3)
"""Places, and what is to stand there."""


def spoiled(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """A few bytes of it replaced."""
    changed = bytearray(data)
    for place, byte in changes if data else ():
        changed[place % len(data)] = byte
    return bytes(changed)


def test_every_payload_is_made_here() -> None:
    assert set(PAYLOADS) == set(KINDS)


# The parser


def parse(header: bytes, kind: type[message.AnyPayload], data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decoded = message.decode_header(header)
        assert decoded.size <= message.MAX_PAYLOAD
        assert (decoded.flags & 7) == 1
    with contextlib.suppress(MalformedError):
        payload = message.decode_payload(kind, data)
        assert kind.LEAST <= len(data) <= kind.MOST
        assert message.decode_payload(kind, payload.encode()) == payload


def test_the_parser_returns_a_message_or_its_own_error(pytestconfig: pytest.Config) -> None:
    def check(example: tuple[bytes, bytes, list[tuple[int, int]], list[message.AnyPayload]]) -> None:
        header, data, changes, payloads = example
        for number, payload in enumerate(payloads):
            kind, good = type(payload), payload.encode()
            parse(header, kind, data)
            parse(spoiled(header, changes), kind, spoiled(good, changes))
            for flags in (1, 9):
                parse(message.HEADER.pack(number, flags, len(good)), kind, good)
            assert message.decode_payload(kind, good) == payload

    header = st.binary(min_size=12, max_size=12)
    examples = st.tuples(header, st.binary(max_size=300), CHANGES, st.tuples(*PAYLOADS.values()))
    fuzz(round(PARSED * endurance(pytestconfig)), examples, check)


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
        honest(Request.SET_PROTOCOL_FEATURES, U64(0x1A018)),
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


FLAGS = (9,) * 80 + (1,) * 6 + (5, 2, 0xFFFFFFFB)
"""Most ask for an acknowledgement, so that a refusal is not the end."""
FAULTS = (*[""] * 40, "bytes", "bytes", "bytes", "length", "length", "size", "fds", "fds", "fds")
REQUESTS = (*sorted(HANDLERS) * 4, 0, 19, 21, 23, 35, 2**32 - 1)


@st.composite
def hostile(draw: st.DrawFn) -> Sent:
    """One message."""
    number = draw(st.sampled_from(REQUESTS))
    row = HANDLERS.get(number)
    payload = draw(PAYLOADS[row.payload] if row else st.one_of(*PAYLOADS.values()))
    data, fault = (
        payload.encode(),
        draw(st.sampled_from((*[""] * 20, "bytes", "bytes", "length", "size", "fds", "fds"))),
    )
    if fault == "bytes":
        data = spoiled(data, draw(CHANGES))
    if fault == "length":
        data = draw(st.sampled_from((data[:-1], data + bytes(1), data + bytes(8))))
    size = len(data)
    if fault == "size":
        size = draw(st.sampled_from((len(data) + 1, len(data) + 8, 0, 4096, 4097, 2**32 - 1)))
    fds: list[str] = []
    if isinstance(payload, message.MemoryTable):
        fds = ["memory"] * len(payload.regions)
    elif isinstance(payload, message.VringFd):
        fds = [] if payload.no_fd else [draw(st.sampled_from(("eventfd", "full")))]
    elif number == Request.ADD_MEM_REG:
        fds = ["memory"]
    if fault == "fds":
        files = st.sampled_from(sorted(FILES))
        fds = draw(st.one_of(st.lists(files, max_size=2), st.lists(files, min_size=8, max_size=20)))
    pieces = draw(st.sampled_from(((), (), (), (), (1,), (12,), (5, 12, 20), (13, 30))))
    return Sent(message.HEADER.pack(number, draw(st.sampled_from(FLAGS)), size) + data, tuple(fds), pieces)


MESSAGES = st.one_of(st.lists(hostile(), max_size=40), st.lists(hostile(), min_size=15, max_size=40))


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
        before = set(threading.enumerate())
        self.service.start()
        started = set(threading.enumerate()) - before
        (self.control,) = (thread for thread in started if thread.name == "control a")
        self.files = {name: make() for name, make in FILES.items()}
        self.baseline = open_fds()
        self.acks: Counter[bool] = Counter()
        """Messages that were taken, and that were refused with an answer."""

    def close(self) -> None:
        for fd in self.files.values():
            os.close(fd)
        self.service.stop(MAX_WAIT)
        self.worker.stop()
        self.polling.join()
        self.port.close()

    def attack(self, messages: list[Sent]) -> None:
        """One connection, and what must hold after it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(MAX_WAIT)
            sock.connect(str(self.path))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be closed on us at any point
                for sent in messages:
                    self._send(sock, sent)
                sock.shutdown(socket.SHUT_WR)
            # It closes its end when it has handled all there was, or earlier.
            answers = b""
            with contextlib.suppress(ConnectionResetError):
                while part := sock.recv(65536):
                    answers += part
        self._count(answers)
        self.check()

    def _count(self, answers: bytes) -> None:
        while len(answers) >= message.HEADER.size:
            number, _, size = message.HEADER.unpack_from(answers)
            payload = answers[message.HEADER.size : message.HEADER.size + size]
            answers = answers[message.HEADER.size + size :]
            if size == 8 and number not in ANSWERED:
                self.acks[not any(payload)] += 1

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
        deadline = time.monotonic() + MAX_WAIT
        while self.service.describe()["state"] != "listening" or open_fds() != self.baseline:
            assert time.monotonic() < deadline, f"{self.service.describe()}, {open_fds()} fds of {self.baseline}"
            time.sleep(0.0002)
        assert self.service.defects == 0
        assert self.control.is_alive()
        assert self.polling.is_alive()


def open_fds() -> int:
    """But for the file that stands by to replace lost guest memory, and stays from the first guest on."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that we read them by
            found += "memfd:fastvhost-lost" not in str(entry.readlink())
    return found


ANSWERED = tuple(number for number, row in HANDLERS.items() if row.replies)
"""Requests with an answer of their own."""


class Targets:
    """One after the other: a new one where one has failed, so that a smaller example that fails can be looked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.now = Target(directory)

    def attack(self, messages: list[Sent]) -> None:
        try:
            self.now.attack(messages)
        except BaseException:
            self.now.close()
            self._directory = self._directory / "next"
            self._directory.mkdir()
            self.now = Target(self._directory)
            raise

    def close(self) -> None:
        self.now.close()


@pytest.fixture
def targets() -> Iterator[Targets]:
    with short_dir() as directory:
        targets = Targets(directory)
        yield targets
        targets.close()
    maps = Path("/proc/self/maps").read_text()
    assert "memfd:fuzz" not in maps


def test_a_session_survives_any_sequence_of_messages(targets: Targets, pytestconfig: pytest.Config) -> None:
    def check(example: tuple[int, list[Sent], bytes]) -> None:
        steps, messages, rest = example
        targets.attack([*prologue(steps), *messages, Sent(rest, (), ())])

    steps = mostly(st.just(len(prologue(99))), st.integers(0, len(prologue(99))))
    examples = st.tuples(steps, MESSAGES, st.binary(max_size=40))
    fuzz(round(SESSIONS * endurance(pytestconfig)), examples, check)
    acks = targets.now.acks
    assert min(acks[True], acks[False]) > SESSIONS // 2, "most of what was sent met no session that handled it"
    honest = Frontend.connect(targets.now.path)
    assert honest.ask_u64(Request.GET_QUEUE_NUM) == 1
    honest.close()
