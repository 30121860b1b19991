"""The control queue, where a front-end leaves it to the back-end: commands, effects, and rings that break rules."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.vhostuser.service import VhostUserService, promised_pairs
from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Memory, Piece, SplitQueue
from tests.frontend import (
    F_VERSION_1,
    FEATURES,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_MQ,
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_FEATURES,
    RING_F_EVENT_IDX,
    VRING_STATE,
    Frontend,
    Refused,
    Request,
    mem_table,
    readable,
    ring_fd,
    vring_addr,
)
from tests.packed_driver import PackedQueue
from tests.unit.service_rig import until

MIB = 1 << 20
NET_F_CTRL_VQ, NET_F_MQ, F_RING_PACKED = 1 << 17, 1 << 22, 1 << 34
PAIRS = 2
CONTROL = 2 * PAIRS
MULTI = FEATURES | NET_F_CTRL_VQ | NET_F_MQ
FORMATS = {"split": MULTI, "split events": MULTI | RING_F_EVENT_IDX, "packed": MULTI | F_RING_PACKED}
OK, ERROR = 0, 1
SIZE = 32


def pairs_set(n: int) -> bytes:
    return struct.pack("<BBH", 4, 0, n)


class Bench:
    """A port of two queue pairs, its service, and a front-end that has set up every ring, the control queue last."""

    def __init__(self, path: Path, features: int, rings: int = CONTROL + 1, queue_pairs: int = PAIRS) -> None:
        self.port = VirtioPort("a", Door(), promised_pairs(queue_pairs))
        self.service = VhostUserService(str(path), self.port, queue_pairs=queue_pairs)
        self.service.open()
        self.service.start()
        self.memory = Memory.of(8 * MIB)
        self.frontend = Frontend.connect(path)
        packed = bool(features & F_RING_PACKED)
        self.queues: list[Any] = [(PackedQueue if packed else SplitQueue)(self.memory, SIZE) for _ in range(rings)]
        self.fds = [[os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)] for _ in range(rings)]
        self.frontend.handshake(
            self.memory,
            self.queues,
            features=features,
            protocol_features=PROTOCOL_FEATURES | PROTOCOL_F_CONFIG,
            fds=[(kick, call, err) for kick, call, err in self.fds],
        )

    @property
    def queue(self) -> Any:
        return self.queues[CONTROL]

    @property
    def kick(self) -> int:
        return self.fds[CONTROL][0]

    def pieces(self, command: bytes, *, indirect: bool = False) -> tuple[list[Piece], int]:
        """Header, data and answer, as Linux sends them. Returns where the answer comes, too."""
        at = self.memory.take(len(command) + 1)
        self.memory.write(at, command + b"\xff")
        cut = min(2, len(command))
        parts = [Piece(at, cut), Piece(at + cut, len(command) - cut)] if len(command) > cut else [Piece(at, cut)]
        parts.append(Piece(at + len(command), 1, writable=True))
        return ([self.queue.indirect(parts)] if indirect else parts), at + len(command)

    def tell(self, command: bytes, *, indirect: bool = False) -> int:
        """The answer to a command."""
        pieces, answer = self.pieces(command, indirect=indirect)
        self.queue.make_available(self.queue.chain(pieces), kick=self.kick)
        (used,) = self.queue.wait_used()
        assert used.bytes == 1
        return self.memory.read(answer, 1)[0]

    def active(self) -> list[bool]:
        return [self.port.queue_state(index).enabled for index in range(CONTROL)]

    def shown(self, index: int = CONTROL) -> dict[str, Any]:
        return next(ring for ring in self.service.describe()["rings"] if ring["index"] == index)

    def close(self) -> None:
        self.frontend.close()
        self.service.stop(MAX_WAIT)
        self.port.close()
        self.memory.close()
        for fd in [fd for fds in self.fds for fd in fds]:
            os.close(fd)


@contextlib.contextmanager
def made(features: int, **settings: Any) -> Iterator[Bench]:
    with short_dir() as directory, contextlib.closing(Bench(directory / "a.sock", features, **settings)) as bench:
        yield bench


@pytest.fixture(params=list(FORMATS))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with made(FORMATS[request.param]) as bench:
        yield bench


@pytest.mark.parametrize("indirect", [False, True], ids=["chain", "table"])
def test_commands_that_are_known_are_obeyed_and_all_others_refused(bench: Bench, indirect: bool) -> None:
    answers = {
        pairs_set(1): OK,
        pairs_set(PAIRS): OK,
        bytes((3, 0)): OK,  # ANNOUNCE_ACK
        pairs_set(0): ERROR,
        pairs_set(PAIRS + 1): ERROR,
        pairs_set(0xFFFF): ERROR,
        bytes((4, 0)): ERROR,
        bytes((4, 0, 1)): ERROR,
        bytes((4, 1, 1, 0)): ERROR,  # RSS
        bytes((0, 0, 1)): ERROR,  # promiscuous mode
        bytes((1, 1)) + bytes(300): ERROR,  # a MAC table
        bytes((255, 255)): ERROR,
        bytes((4,)): ERROR,
    }
    for _ in range(4):  # over the end of the ring
        for command, answer in answers.items():
            assert bench.tell(command, indirect=indirect) == answer, command
    assert os.eventfd_read(bench.fds[CONTROL][1]) >= 1
    assert not bench.shown()["broken"]


def test_only_the_first_pair_is_active_until_the_driver_asks_for_more(bench: Bench) -> None:
    assert bench.active() == [True, True, False, False]
    bench.tell(pairs_set(2))
    assert bench.active() == [True] * 4
    bench.tell(pairs_set(1))
    assert bench.active() == [True, True, False, False]
    # What the front-end disabled stays disabled.
    bench.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(3, 0))
    bench.tell(pairs_set(2))
    assert bench.active() == [True, True, True, False]
    bench.frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(3, 1))
    assert bench.active() == [True] * 4


def test_many_commands_at_once_are_all_answered_in_order(bench: Bench) -> None:
    for _ in range(3):
        made = [bench.pieces(pairs_set(n % 4), indirect=True) for n in range(SIZE)]
        heads = [bench.queue.chain(pieces) for pieces, _ in made]
        bench.queue.make_available(*heads, kick=bench.kick)
        assert [used[0] for used in bench.queue.wait_used(SIZE)] == heads
        assert [bench.memory.read(at, 1)[0] for _, at in made] == [int(n % 4 not in (1, 2)) for n in range(SIZE)]


def test_a_socket_is_called_as_well() -> None:
    with made(MULTI) as bench:
        ours, its = socket.socketpair()
        with ours, its:
            bench.frontend.tell(Request.SET_VRING_CALL, struct.pack("=Q", CONTROL), [its.fileno()])
            bench.tell(pairs_set(1))
            assert readable(ours.fileno(), 2.0)
            assert ours.recv(8) == struct.pack("=Q", 1)


def test_a_ring_behind_the_pairs_is_one_for_frames_where_the_control_queue_is_the_front_ends() -> None:
    """QEMU never acknowledges CTRL_VQ here, and reads GET_QUEUE_NUM as a number of pairs."""
    with made(MULTI & ~NET_F_CTRL_VQ, rings=2 * promised_pairs(PAIRS)) as bench:
        states = [bench.port.queue_state(index) for index in range(2 * promised_pairs(PAIRS))]
        assert all(state.live and state.enabled for state in states)


def test_all_pairs_are_active_where_nobody_starts_the_control_queue() -> None:
    """Cloud Hypervisor acknowledges CTRL_VQ and serves it itself, without passing commands on."""
    with made(MULTI, rings=CONTROL) as bench:
        assert bench.active() == [True] * 4


@pytest.mark.parametrize("pairs", [1, 2])
def test_cloud_hypervisor_finds_its_queues_and_can_set_them_up_twice(pairs: int) -> None:
    """The requests of its vhost_user/net.rs and vu_common_ctrl.rs in their order: at its start, and at its driver's."""
    known = PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_CONFIGURE_MEM_SLOTS
    with short_dir() as directory, contextlib.ExitStack() as stack:
        path, memory = directory / "a.sock", stack.enter_context(contextlib.closing(Memory.of(MIB)))
        port = stack.enter_context(contextlib.closing(VirtioPort("a", Door(), promised_pairs(pairs))))
        service = VhostUserService(str(path), port, queue_pairs=pairs)
        service.open()
        service.start()
        stack.callback(service.stop, 2.0)
        front = stack.enter_context(contextlib.closing(Frontend.connect(path)))
        front.send(Request.SET_OWNER)
        acked = front.ask_u64(Request.GET_FEATURES) & (MULTI | RING_F_EVENT_IDX)
        agreed = front.ask_u64(Request.GET_PROTOCOL_FEATURES) & known
        front.send(Request.SET_PROTOCOL_FEATURES, struct.pack("=Q", agreed))
        front.reply_ack = True
        # It counts virtqueues, two by default.
        assert (front.ask_u64(Request.GET_QUEUE_NUM) if agreed & PROTOCOL_F_MQ else 2) >= 2 * pairs
        for _ in range(2):  # its driver is loaded anew
            queues = [SplitQueue(memory, SIZE, start=0) for _ in range(2 * pairs)]
            fds = [[os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)] for _ in queues]
            stack.callback(lambda fds=fds: [os.close(fd) for pair in fds for fd in pair])
            front.tell(Request.SET_FEATURES, struct.pack("=Q", acked))
            front.set_mem_table(memory.regions)
            for index in range(2 * pairs):
                front.tell(Request.SET_VRING_NUM, VRING_STATE.pack(index, SIZE))
            for index, (queue, (kick, call)) in enumerate(zip(queues, fds, strict=True)):
                front.tell(Request.SET_VRING_ADDR, vring_addr(index, queue))
                front.tell(Request.SET_VRING_BASE, VRING_STATE.pack(index, 0))
                front.tell(Request.SET_VRING_CALL, *ring_fd(index, call))
                front.tell(Request.SET_VRING_KICK, *ring_fd(index, kick))
            for index in range(2 * pairs):
                front.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1))
            states = [port.queue_state(index) for index in range(2 * pairs)]
            assert all(state.live and state.enabled for state in states)
            for index in range(2 * pairs):
                front.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 0))
                front.get_vring_base(index)


def test_without_mq_the_control_queue_is_ring_2() -> None:
    with made(MULTI & ~NET_F_MQ, rings=3) as bench:
        command, answer = bench.memory.take(2), bench.memory.take(1)
        pieces = [Piece(command, 2), Piece(answer, 1, writable=True)]
        bench.memory.write(command, bytes((3, 0)))
        bench.memory.write(answer, b"\xff")
        bench.queues[2].make_available(bench.queues[2].chain(pieces), kick=bench.fds[2][0])
        bench.queues[2].wait_used()
        assert bench.memory.read(answer, 1) == b"\0"


def test_a_control_queue_without_a_kick_descriptor_is_refused() -> None:
    with made(MULTI, rings=CONTROL) as bench:
        queue = SplitQueue(bench.memory, SIZE)
        with pytest.raises(Refused):
            bench.frontend.set_up_queue(CONTROL, queue)


def test_a_control_queue_goes_on_where_it_was_stopped(bench: Bench) -> None:
    for n in range(SIZE + 3):
        assert bench.tell(pairs_set(1 + n % 2)) == OK
    base = bench.frontend.get_vring_base(CONTROL)
    bench.queue.base = base
    kick, call, err = bench.fds[CONTROL]
    bench.frontend.set_up_queue(CONTROL, bench.queue, kick=kick, call=call, err=err)
    assert bench.active() == [True, True, False, False]  # the driver is a new one, as far as anybody knows
    assert bench.tell(pairs_set(2)) == OK
    assert bench.active() == [True] * 4


def test_another_table_of_memory_changes_nothing_and_one_without_it_stops_it(bench: Bench) -> None:
    assert bench.tell(pairs_set(2)) == OK
    regions = bench.memory.regions
    bench.frontend.set_mem_table(regions)
    assert bench.tell(pairs_set(1)) == OK
    with contextlib.closing(Memory.of(MIB, guest_addr=0x7000_0000)) as other:
        bench.frontend.tell(Request.SET_MEM_TABLE, mem_table(other.regions), [r.fd for r in other.regions])
        assert "removed" in bench.shown()["broken"]
    bench.frontend.set_mem_table(regions)
    assert bench.tell(pairs_set(2)) == OK
    assert bench.active() == [True] * 4


def split_ring_without_rules(bench: Bench, name: str) -> None:
    """One chain, or an index, that breaks a rule of split rings."""
    queue, memory = bench.queue, bench.memory
    at = memory.take(64)
    if name == "index too far":
        queue.set_avail_index((queue.used_index + SIZE + 1) & 0xFFFF)
        return
    table = memory.take(16 * 4)
    entry = struct.Struct("<QIHH")
    bad = {
        "no answer": (at, 2, 0, 0),
        "answer without bytes": (at, 0, DESC_F_WRITE, 0),
        "answer outside memory": (1 << 40, 1, DESC_F_WRITE, 0),
        "command outside memory": (1 << 40, 2, DESC_F_NEXT, 1),
        "loop": (at, 2, DESC_F_NEXT, 0),
        "next too far": (at, 2, DESC_F_NEXT, SIZE),
        "table of 15 bytes": (table, 15, DESC_F_INDIRECT, 0),
        "table of none": (table, 0, DESC_F_INDIRECT, 0),
        "table too long": (table, 16 * (SIZE + 1), DESC_F_INDIRECT, 0),
        "table in a table": (table, 16, DESC_F_INDIRECT, 0),
        "table outside memory": (1 << 40, 16, DESC_F_INDIRECT, 0),
        "readable behind writable": (at, 1, DESC_F_WRITE | DESC_F_NEXT, 1),
    }
    memory.write(table, entry.pack(table, 16, DESC_F_INDIRECT, 0))
    if name != "head too far":
        queue.write_descriptor(0, *bad[name])
        queue.write_descriptor(1, at, 2)
    queue.place(SIZE if name == "head too far" else 0)
    queue.set_avail_index((queue.used_index + 1) & 0xFFFF)


@pytest.mark.parametrize(
    "name",
    [
        "no answer",
        "answer without bytes",
        "answer outside memory",
        "command outside memory",
        "loop",
        "next too far",
        "head too far",
        "index too far",
        "table of 15 bytes",
        "table of none",
        "table too long",
        "table in a table",
        "table outside memory",
        "readable behind writable",
    ],
)
def test_a_command_that_breaks_the_rules_stops_the_control_queue_and_nothing_else(name: str) -> None:
    with made(MULTI) as bench:
        split_ring_without_rules(bench, name)
        os.eventfd_write(bench.kick, 1)
        assert readable(bench.fds[CONTROL][2], 2.0)  # err
        assert bench.shown()["broken"].startswith("control queue: ")
        assert bench.frontend.ask_u64(Request.GET_QUEUE_NUM) == promised_pairs(PAIRS)
        assert bench.port.queue_state(0).live
        # It recovers as other rings do.
        base = bench.frontend.get_vring_base(CONTROL)
        assert base == bench.queue.used_index
        bench.queue.reset(base)
        kick, call, err = bench.fds[CONTROL]
        bench.frontend.set_up_queue(CONTROL, bench.queue, kick=kick, call=call, err=err)
        assert bench.tell(pairs_set(2)) == OK


def test_commands_before_a_bad_one_are_answered(bench: Bench) -> None:
    good, answer = bench.pieces(pairs_set(2))
    bad = [Piece(good[0].addr, 2)]
    bench.queue.make_available(bench.queue.chain(good), bench.queue.chain(bad), kick=bench.kick)
    assert len(bench.queue.wait_used()) == 1
    assert bench.memory.read(answer, 1) == b"\0"
    assert bench.active() == [True] * 4
    until(lambda: bench.shown()["broken"])


def test_nothing_is_done_whose_answer_has_no_place(bench: Bench) -> None:
    good, _ = bench.pieces(pairs_set(2))
    bad = [*good[:-1], Piece(1 << 40, 1, writable=True)]
    bench.queue.make_available(bench.queue.chain(bad), kick=bench.kick)
    until(lambda: bench.shown()["broken"])
    assert bench.active() == [True, True, False, False]


@pytest.mark.parametrize("name", ["loop", "table in a chain", "answer outside memory", "table outside memory"])
def test_a_packed_command_that_breaks_the_rules_stops_it_too(name: str) -> None:
    with made(MULTI | F_RING_PACKED) as bench:
        at = bench.memory.take(64)
        pieces = {
            "loop": [Piece(at, 1)] * SIZE,
            "table in a chain": [Piece(at, 2), Piece(at, 16, indirect=True)],
            "answer outside memory": [Piece(at, 2), Piece(1 << 40, 1, writable=True)],
            "table outside memory": [Piece(1 << 40, 16, indirect=True)],
        }[name]
        bench.queue.make_available(bench.queue.chain(pieces))
        if name == "loop":  # every descriptor says that there is one more
            last = bench.queue.at(SIZE - 1) + 14
            bench.memory.store_u16(last, bench.memory.load_u16(last) | DESC_F_NEXT)
        os.eventfd_write(bench.kick, 1)
        until(lambda: bench.shown()["broken"].startswith("control queue: "))
        assert bench.port.queue_state(0).live


def test_the_configuration_tells_how_many_pairs_there_are() -> None:
    with made(MULTI) as bench:
        assert not (PROTOCOL_F_CONFIG | PROTOCOL_F_MQ) & ~bench.frontend.protocol_features
        wanted = struct.pack("=III", 0, 12, 0) + bytes(12)
        reply = bench.frontend.ask(Request.GET_CONFIG, wanted)
        assert struct.unpack("=III6sHHH", reply) == (0, 12, 0, bytes(6), 1, PAIRS, 1500)
        assert bench.frontend.ask(Request.GET_CONFIG, struct.pack("=III", 8, 2, 0) + bytes(2))[12:] == b"\x02\0"
        # Beyond its end: a reply without a payload says so.
        for offset, count in ((0, 200), (24, 1), (0xFFFFFFFF, 1)):
            assert bench.frontend.ask(Request.GET_CONFIG, struct.pack("=III", offset, count, 0) + bytes(count)) == b""
        with pytest.raises(Refused):
            bench.frontend.tell(Request.SET_CONFIG, struct.pack("=III", 0, 1, 0) + b"\1")


@pytest.mark.parametrize(("pairs", "promised"), [(1, 1), (2, 5), (4, 9), (63, 127), (64, 128), (128, 128)])
def test_a_front_end_is_promised_enough_however_it_counts(pairs: int, promised: int) -> None:
    assert promised_pairs(pairs) == promised
    with made(FEATURES | F_VERSION_1, rings=2, queue_pairs=pairs) as bench:
        assert bench.frontend.ask_u64(Request.GET_QUEUE_NUM) == promised
        assert len(bench.service.describe()["rings"]) == 2 * pairs
