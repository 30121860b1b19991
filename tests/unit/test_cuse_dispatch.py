"""The dispatcher of a device file: who may ask what, ioctls in several attempts, false addresses, ends of all kinds."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from fastvhost.backend import advice, features
from fastvhost.backend.narrative import Narrative
from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.vhostcuse.dispatch import MOST_OPEN, TABLE, Dispatcher
from fastvhost.vhostcuse.ioctls import IoctlNumber, MemoryMap, VringFile
from fastvhost.vhostcuse.session import OFFERED, Surroundings
from fastvhost.vhostuser import protocol_features
from tests.unit.fake_kernel import OTHER_THREAD, THREAD, FakeCaller, FakeFiles, FakeKernel, ioctl_body, request
from tests.unit.fake_port import FAKE_MEMORY, FakeMapping, FakePort
from tests.unit.session_bench import REGION, Clock, open_fds

MODERN = features.mask(features.F_VERSION_1)
KICK, CALL, ERR, TAP = 40, 41, 42, 43
"""Numbers of the caller's file descriptors."""


class Bench:
    """A dispatcher, a kernel that asks it, and callers by process number."""

    def __init__(self, queue_pairs: int = 1) -> None:
        self.port = FakePort(queue_pairs=queue_pairs)
        self.clock = Clock()
        self.narrative = Narrative(advice.by_listening("/dev/x", ""), self.clock)
        self.callers: dict[int, FakeCaller] = {}
        self.files = {number: os.eventfd(0, os.EFD_NONBLOCK) for number in (KICK, CALL, ERR, TAP)}
        self.dispatcher = Dispatcher(self.port, self.narrative, FAKE_MEMORY, self.identify, Surroundings(FakeFiles))
        self.kernel = FakeKernel(self.answer)

    def answer(self, data: bytes) -> bytes | None:
        answers: list[bytes] = []
        self.dispatcher.answer(data, answers.append)
        return answers[0] if answers else None

    def identify(self, thread: int) -> FakeCaller:
        caller = FakeCaller(thread)
        caller.files = self.files
        self.callers[caller.pid] = caller
        return caller

    def said(self) -> str:
        return "\n".join(line.text for line in self.narrative.take())

    def do(self, handle: int, command: int, payload: object = None, thread: int = THREAD) -> int:
        """An ioctl with a payload; returns its errno."""
        data = payload.encode() if payload is not None else b""  # type: ignore[attr-defined]
        return self.kernel.ioctl(handle, command, data, thread)[0]

    def owned(self, thread: int = THREAD) -> int:
        handle = self.kernel.open(thread)
        assert self.do(handle, IoctlNumber.SET_OWNER, thread=thread) == 0
        return handle

    def configure(self, handle: int, index: int, base: int = 0) -> None:
        start = REGION.user_addr + handle * 0x40000 + index * 0x10000
        addresses = VringAddr(index, 0, start, start + 0x4000, start + 0x8000, 0)
        for command, payload in (
            (IoctlNumber.SET_VRING_NUM, VringState(index, 256)),
            (IoctlNumber.SET_VRING_BASE, VringState(index, base)),
            (IoctlNumber.SET_VRING_ADDR, addresses),
            (IoctlNumber.SET_VRING_KICK, VringFile(index, KICK)),
            (IoctlNumber.SET_VRING_CALL, VringFile(index, CALL)),
        ):
            assert self.do(handle, command, payload) == 0, command

    def run(self) -> int:
        """All steps to two running rings, as QEMU does them. Returns the handle."""
        handle = self.owned()
        assert self.do(handle, IoctlNumber.SET_VRING_ERR, VringFile(0, ERR)) == 0
        assert self.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN)) == 0
        assert self.do(handle, IoctlNumber.SET_MEM_TABLE, MemoryMap((REGION,))) == 0
        for index in (0, 1):
            self.configure(handle, index)
        for index in (0, 1):
            assert self.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(index, TAP)) == 0
        return handle

    def close(self) -> None:
        self.dispatcher.drop("the test ends")
        self.port.close()
        for fd in self.files.values():
            os.close(fd)


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = open_fds()
    made = Bench()
    yield made
    made.close()
    assert open_fds() == before
    assert FakeMapping.open == 0


def test_qemus_order_of_ioctls_ends_in_running_rings(bench: Bench) -> None:
    bench.run()
    assert sorted(bench.port.live) == [0, 1]
    settings = bench.port.live[0]
    assert (settings.size, settings.enabled, settings.kicked) == (256, True, False)
    assert settings.call_fd >= 0
    assert settings.kick_fd >= 0
    assert settings.desc_user_addr != settings.avail_user_addr != settings.used_user_addr
    assert bench.port.of("set_features") == [(MODERN,)]
    assert bench.dispatcher.session is not None
    assert "connected to process 7000" in bench.said()


def test_a_ring_runs_only_while_it_has_a_backend(bench: Bench) -> None:
    handle = bench.owned()
    bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN))
    bench.do(handle, IoctlNumber.SET_MEM_TABLE, MemoryMap((REGION,)))
    bench.configure(handle, 0)
    assert bench.port.live == {}
    assert bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(0, TAP)) == 0
    assert list(bench.port.live) == [0]
    bench.port.next_avail[0] = 77
    assert bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(0, -1)) == 0
    assert bench.port.live == {}
    assert bench.kernel.ioctl(handle, IoctlNumber.GET_VRING_BASE, VringState(0, 0).encode()) == (
        0,
        VringState(0, 77).encode(),
    )


def test_a_backend_given_again_starts_the_ring_where_it_stood_with_the_same_kick(bench: Bench) -> None:
    handle = bench.run()
    bench.port.next_avail[1] = 5
    bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(1, -1))
    assert bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(1, TAP)) == 0
    assert bench.port.live[1].base == 5
    assert os.fstat(bench.port.live[1].kick_fd).st_ino == os.fstat(bench.files[KICK]).st_ino


def test_asking_for_a_base_does_not_stop_the_ring_for_long(bench: Bench) -> None:
    handle = bench.run()
    bench.port.next_avail[0] = 9
    answer = bench.kernel.ioctl(handle, IoctlNumber.GET_VRING_BASE, VringState(0, 0).encode())[1]
    assert answer == VringState(0, 9).encode()
    assert bench.port.live[0].base == 9


def test_features_are_told_to_any_process_and_are_those_of_a_kernel(bench: Bench) -> None:
    handle = bench.kernel.open()
    error, data = bench.kernel.ioctl(handle, IoctlNumber.GET_FEATURES)
    assert (error, data) == (0, U64(OFFERED).encode())
    for absent in (protocol_features.F_PROTOCOL_FEATURES, features.NET_F_MQ, features.F_LOG_ALL, 33):
        assert not features.has(OFFERED, absent)


def test_features_that_were_not_offered_are_refused(bench: Bench) -> None:
    handle = bench.owned()
    assert bench.do(handle, IoctlNumber.SET_FEATURES, U64(features.mask(features.F_LOG_ALL))) == errno.EINVAL
    assert "LOG_ALL not offered" in bench.said()


@pytest.mark.parametrize("command", sorted(command for command, row in TABLE.items() if row.door))
def test_whatever_reaches_the_workers_takes_an_owner(bench: Bench, command: int) -> None:
    handle = bench.kernel.open()
    assert bench.kernel.ioctl(handle, command, bytes(64))[0] == errno.EPERM
    assert bench.port.calls == []


@pytest.mark.parametrize("command", sorted(TABLE))
def test_no_ioctl_takes_a_word_from_another_process_than_its_owner(bench: Bench, command: int) -> None:
    handle = bench.run()
    bench.port.calls.clear()
    error = bench.kernel.ioctl(handle, command, bytes(64), OTHER_THREAD)[0]
    expected = {IoctlNumber.GET_FEATURES: 0, IoctlNumber.SET_OWNER: errno.EBUSY}
    assert error == expected.get(IoctlNumber(command), errno.EPERM)
    assert bench.port.calls == []


def test_another_thread_of_the_owner_may_ask(bench: Bench) -> None:
    handle = bench.owned()
    assert bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN), thread=THREAD + 5) == 0


def test_another_process_than_the_owner_may_open_the_file(bench: Bench) -> None:
    handle = bench.kernel.open(OTHER_THREAD)  # a shell, or libvirt, that passes it on
    assert bench.do(handle, IoctlNumber.SET_OWNER) == 0
    assert bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN)) == 0


def test_a_second_front_end_is_turned_away_while_one_is_there(bench: Bench) -> None:
    handle = bench.run()
    other = bench.kernel.open(OTHER_THREAD)
    assert bench.do(other, IoctlNumber.SET_OWNER, thread=OTHER_THREAD) == errno.EBUSY
    bench.kernel.close(handle)
    assert bench.do(other, IoctlNumber.SET_OWNER, thread=OTHER_THREAD) == 0


def test_owning_twice_or_more_files_than_queue_pairs_is_refused(bench: Bench) -> None:
    handle = bench.owned()
    assert bench.do(handle, IoctlNumber.SET_OWNER) == errno.EBUSY
    assert bench.do(bench.kernel.open(), IoctlNumber.SET_OWNER) == errno.EBUSY
    assert "queues=2" in bench.said()


def test_the_last_close_stops_everything_and_the_port_waits_again(bench: Bench) -> None:
    handle = bench.run()
    bench.kernel.close(handle)
    assert bench.port.live == {}
    assert bench.port.of("set_memory")[-1] == (None,)
    assert bench.port.of("set_link") == [(True,), (False,)]
    assert bench.dispatcher.session is None
    assert bench.callers[7000].closed
    assert "disconnected: the front-end closed; listening again" in bench.said()
    bench.run()


def test_a_reset_owner_can_own_again(bench: Bench) -> None:
    handle = bench.run()
    assert bench.do(handle, IoctlNumber.RESET_OWNER) == 0
    assert bench.port.live == {}
    assert bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN)) == errno.EPERM
    assert bench.do(handle, IoctlNumber.SET_OWNER) == 0


def test_faulted_memory_ends_the_front_end_and_its_file_may_be_owned_anew(bench: Bench) -> None:
    handle = bench.run()
    bench.port.happen("faulted", -1, "the file became shorter")
    bench.dispatcher.look()
    assert bench.dispatcher.session is None
    assert bench.port.live == {}
    assert "the file became shorter" in bench.said()
    assert bench.do(handle, IoctlNumber.SET_VRING_NUM, VringState(0, 256)) == errno.EPERM
    assert bench.do(handle, IoctlNumber.SET_OWNER) == 0


def test_a_ring_that_breaks_just_before_a_request_says_so_before_the_request_is_handled(bench: Bench) -> None:
    handle = bench.run()
    bench.port.news.append(("broken", 0, "a loop"))  # a worker found it, and no control thread knows yet
    assert bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(0, TAP)) == 0  # sets its queue up again
    assert os.eventfd_read(bench.files[ERR]) == 1


def test_a_broken_ring_is_told_by_its_error_eventfd(bench: Bench) -> None:
    bench.run()
    bench.port.happen("broken", 0, "a loop")
    bench.dispatcher.look()
    assert os.eventfd_read(bench.files[ERR]) == 1


class TestQueuePairs:
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        before = open_fds()
        made = Bench(queue_pairs=2)
        yield made
        made.close()
        assert open_fds() == before

    def test_every_open_file_is_a_queue_pair_with_rings_0_and_1(self, bench: Bench) -> None:
        bench.run()
        bench.run()
        assert sorted(bench.port.live) == [0, 1, 2, 3]

    def test_the_same_table_told_by_each_file_is_mapped_once(self, bench: Bench) -> None:
        bench.run()
        bench.run()
        assert len(bench.port.of("set_memory")) == 1

    def test_closing_one_file_leaves_the_other_pair_running(self, bench: Bench) -> None:
        first = bench.run()
        bench.run()
        bench.kernel.close(first)
        assert sorted(bench.port.live) == [2, 3]
        assert bench.dispatcher.session is not None
        bench.run()
        assert sorted(bench.port.live) == [0, 1, 2, 3]

    def test_ring_2_of_a_file_does_not_exist(self, bench: Bench) -> None:
        handle = bench.owned()
        for command, payload in (
            (IoctlNumber.SET_VRING_NUM, VringState(2, 256)),
            (IoctlNumber.GET_VRING_BASE, VringState(0xFFFF_FFFF, 0)),
            (IoctlNumber.SET_VRING_KICK, VringFile(2, KICK)),
            (IoctlNumber.NET_SET_BACKEND, VringFile(2, -1)),
            (IoctlNumber.SET_VRING_ADDR, VringAddr(2, 0, 0, 0, 0, 0)),
        ):
            assert bench.do(handle, command, payload) == errno.ENOBUFS, command


# Attempts


def attempt(bench: Bench, handle: int, command: int, data: bytes, out: int = 0) -> int:
    """One single attempt, as a kernel would not make it. Returns its errno."""
    return bench.kernel.ask(39, ioctl_body(handle, command, data, out))[0]


def test_a_memory_table_comes_in_three_attempts_and_nothing_is_remembered_between(bench: Bench) -> None:
    handle = bench.owned()
    table = MemoryMap((REGION,)).encode()
    for data, wanted in ((b"", 8), (table[:8], 40), (b"", 8)):
        error, body = bench.kernel.ask(39, ioctl_body(handle, IoctlNumber.SET_MEM_TABLE, data))
        assert (error, struct.unpack_from("=iIII", body)) == (0, (0, 4, 1, 0))
        assert struct.unpack_from("=QQ", body, 16)[1] == wanted
    assert attempt(bench, handle, IoctlNumber.SET_MEM_TABLE, table) == 0
    assert len(bench.port.of("set_memory")) == 1


def test_polling_times_and_an_empty_choice_of_backend_features_are_taken_and_no_more_offered(bench: Bench) -> None:
    handle = bench.owned()
    assert bench.do(handle, IoctlNumber.SET_VRING_BUSYLOOP_TIMEOUT, VringState(1, 50)) == 0
    assert bench.do(handle, IoctlNumber.SET_VRING_BUSYLOOP_TIMEOUT, VringState(2, 50)) == errno.ENOBUFS
    assert bench.kernel.ioctl(handle, IoctlNumber.GET_BACKEND_FEATURES) == (0, bytes(8))
    assert bench.do(handle, IoctlNumber.SET_BACKEND_FEATURES, U64(0)) == 0
    assert bench.do(handle, IoctlNumber.SET_BACKEND_FEATURES, U64(1)) != 0


def test_a_table_that_changes_between_two_looks_is_refused(bench: Bench) -> None:
    handle = bench.owned()
    for counts in ((1, 2), (2, 1), (1, 0), (3, 0xFFFF_FFFF)):
        looks = iter([struct.pack("=II", count, 0) + MemoryMap((REGION,) * 3).encode()[8:] for count in counts])
        assert bench.kernel.ioctl(handle, IoctlNumber.SET_MEM_TABLE, lambda looks=looks: next(looks))[0] == errno.EINVAL
    assert bench.port.of("set_memory") == []


@pytest.mark.parametrize("count", [510, 4096, 0xFFFF_FFFF])
def test_a_table_of_too_many_regions_is_refused_before_it_is_asked_for(bench: Bench, count: int) -> None:
    handle = bench.owned()
    assert attempt(bench, handle, IoctlNumber.SET_MEM_TABLE, struct.pack("=II", count, 0)) == errno.EINVAL


def test_509_regions_fit(bench: Bench) -> None:
    handle = bench.owned()
    regions = tuple(REGION.__class__(n << 24, 1 << 20, n << 24, 0) for n in range(509))
    assert bench.do(handle, IoctlNumber.SET_MEM_TABLE, MemoryMap(regions)) == 0


@pytest.mark.parametrize("command", sorted(command for command, row in TABLE.items() if row.reads))
def test_data_shorter_or_longer_than_asked_for_is_refused(bench: Bench, command: int) -> None:
    handle = bench.owned()
    row = TABLE[command]
    bench.port.calls.clear()
    for length in {1, row.reads - 1, row.reads + 1, row.reads + 31, 4096} - {row.reads}:
        assert attempt(bench, handle, command, bytes(length), row.writes) == errno.EINVAL, length
    assert bench.port.calls == []


def test_an_answer_is_never_longer_than_the_caller_has_room_for(bench: Bench) -> None:
    handle = bench.owned()
    for command in (IoctlNumber.GET_FEATURES, IoctlNumber.GET_BACKEND_FEATURES):
        for room in (0, 4, 7):
            error, body = bench.kernel.ask(39, ioctl_body(handle, command, b"", room))
            assert error == 0
            assert struct.unpack_from("=iIII", body)[1:] == (4, 0, 1)


@pytest.mark.parametrize("flag", [1, 8, 32])
def test_a_32_bit_program_is_refused_with_the_reason(bench: Bench, flag: int) -> None:
    handle = bench.owned()
    body = ioctl_body(handle, IoctlNumber.SET_VRING_NUM, bytes(8), flags=2 | flag)
    assert bench.kernel.ask(39, body)[0] == errno.EOPNOTSUPP
    assert "32-bit" in bench.said()


NEW_WORKER, FREE_WORKER = 0x8004AF08, 0x4004AF09
NOT_SERVED = [
    *(0, 0xAF05, 0x8008AF83, 0x5401, 0xFFFF_FFFF, NEW_WORKER, FREE_WORKER),
    *(IoctlNumber.SET_LOG_BASE, IoctlNumber.SET_LOG_FD, IoctlNumber.SET_VRING_ENDIAN, IoctlNumber.GET_VRING_ENDIAN),
    IoctlNumber.GET_VRING_BUSYLOOP_TIMEOUT,
]


@pytest.mark.parametrize("command", NOT_SERVED)
def test_an_unknown_ioctl_is_enotty_and_not_worth_a_line(bench: Bench, command: int) -> None:
    handle = bench.owned()
    bench.said()
    assert bench.kernel.ioctl(handle, command, bytes(64))[0] == errno.ENOTTY
    assert bench.said() == ""


def test_handles_that_were_never_given_are_refused(bench: Bench) -> None:
    handle = bench.owned()
    for wrong in (0, handle + 1, 1 << 63):
        assert bench.kernel.ioctl(wrong, IoctlNumber.SET_OWNER)[0] == errno.EBADF
    bench.kernel.close(wrong)
    assert bench.dispatcher.session is not None


@pytest.mark.parametrize("opcode", [0, 1, 15, 16, 20, 25, 38, 40, 4096, 0xFFFF_FFFF])
def test_whatever_else_the_kernel_asks_is_not_implemented(bench: Bench, opcode: int) -> None:
    assert bench.kernel.ask(opcode, bytes(64))[0] == errno.ENOSYS


def test_an_interruption_has_no_answer(bench: Bench) -> None:
    assert bench.answer(request(36, bytes(8))) is None


@pytest.mark.parametrize("opcode", [18, 39])
def test_bodies_cut_short_are_answered_and_change_nothing(bench: Bench, opcode: int) -> None:
    bench.run()
    for length in range(8):
        assert bench.kernel.ask(opcode, bytes(length))[0] == errno.EINVAL
    assert sorted(bench.port.live) == [0, 1]


def test_open_files_are_limited(bench: Bench) -> None:
    for _ in range(MOST_OPEN):
        bench.kernel.open()
    assert bench.kernel.ask(14, bytes(8))[0] == errno.EMFILE


# File descriptors


def test_a_file_descriptor_that_is_not_there_is_named(bench: Bench) -> None:
    handle = bench.owned()
    assert bench.do(handle, IoctlNumber.SET_VRING_KICK, VringFile(1, 99)) == errno.EBADF
    assert "ring 1: kick: file descriptor 99" in bench.said()


def test_what_is_no_eventfd_is_refused_as_kick_call_and_err(bench: Bench) -> None:
    handle = bench.owned()
    bench.callers[7000].links[KICK] = "socket:[1]"
    for command in (IoctlNumber.SET_VRING_KICK, IoctlNumber.SET_VRING_CALL, IoctlNumber.SET_VRING_ERR):
        assert bench.do(handle, command, VringFile(0, KICK)) == errno.EINVAL


def test_no_file_descriptor_means_none(bench: Bench) -> None:
    handle = bench.run()
    for command in (IoctlNumber.SET_VRING_KICK, IoctlNumber.SET_VRING_CALL, IoctlNumber.SET_VRING_ERR):
        assert bench.do(handle, command, VringFile(0, -1)) == 0
    assert bench.port.of("kick_queue") == [(0,)]
    assert bench.port.of("set_call_fd")[-1] == (0, -1)


def test_a_refused_table_leaves_the_old_one(bench: Bench) -> None:
    handle = bench.run()
    private = REGION.__class__(0, 4711, 0, 0)
    assert bench.do(handle, IoctlNumber.SET_MEM_TABLE, MemoryMap((private,))) == errno.EFAULT
    assert "private memory" in bench.said()
    assert sorted(bench.port.live) == [0, 1]


def test_memory_that_was_refused_is_not_called_missing_afterwards(bench: Bench) -> None:
    handle = bench.owned()
    assert bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN)) == 0
    assert bench.do(handle, IoctlNumber.SET_MEM_TABLE, MemoryMap((SharedRegion(0, 4711, 0, 0),))) == errno.EFAULT
    assert bench.dispatcher.session is not None
    bench.clock.now += 60
    bench.narrative.tick(bench.dispatcher.session.view)
    said = bench.said()
    assert "SET_MEM_TABLE refused: private memory" in said
    assert "no memory" not in said


@pytest.mark.parametrize("size", [0, 3, 32769, 1 << 31])
def test_ring_sizes_that_no_ring_has_are_refused(bench: Bench, size: int) -> None:
    handle = bench.owned()
    bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN))
    assert bench.do(handle, IoctlNumber.SET_VRING_NUM, VringState(0, size)) == errno.EINVAL


def test_what_may_not_change_while_a_ring_runs_does_not(bench: Bench) -> None:
    handle = bench.run()
    assert bench.do(handle, IoctlNumber.SET_VRING_NUM, VringState(0, 512)) == errno.EINVAL
    assert bench.do(handle, IoctlNumber.SET_VRING_BASE, VringState(0, 3)) == errno.EINVAL
    assert bench.do(handle, IoctlNumber.SET_VRING_ADDR, VringAddr(0, 0, 0, 0, 0, 0)) == errno.EINVAL


def test_a_ring_the_workers_refuse_is_an_errno_to_its_owner(bench: Bench) -> None:
    handle = bench.owned()
    bench.do(handle, IoctlNumber.SET_FEATURES, U64(MODERN))
    bench.do(handle, IoctlNumber.SET_MEM_TABLE, MemoryMap((REGION,)))
    bench.configure(handle, 0)
    bench.port.refusal = "ring 0 lies in no shared memory region"
    assert bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(0, TAP)) == errno.EINVAL
    assert "lies in no shared memory region" in bench.said()
    bench.port.refusal = ""
    assert bench.do(handle, IoctlNumber.NET_SET_BACKEND, VringFile(0, TAP)) == 0
    assert list(bench.port.live) == [0]
