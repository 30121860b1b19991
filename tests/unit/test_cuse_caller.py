"""Calling processes: file descriptors and memory of a real child process are fetched."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend.payload import SharedRegion
from fastvhost.dataplane.guest_memory import Mapping
from fastvhost.vhostcuse.caller import IoctlError, Process
from fastvhost.vhostcuse.guest_files import GuestFiles, PrivateError, Vma, locate, parse_maps
from fastvhost.vhostcuse.session import EVENTFD
from tests.unit.session_bench import open_fds

SIZE = 1 << 20
MAPS = b"""\
7f0000000000-7f0000100000 rw-s 00000000 00:01 1025                       /memfd:ram (deleted)
7f0000100000-7f0000200000 rw-s 00100000 00:01 1025                       /memfd:ram (deleted)
7f0000200000-7f0000300000 rw-s 00300000 00:01 1025                       /memfd:ram (deleted)
7f0000300000-7f0000400000 rw-s 00000000 00:01 1026                       /memfd:other (deleted)
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
7f0000600000-7f0000700000 r--s 00000000 00:0d 2051                       /dev/hugepages/a b (deleted)
nonsense
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


@contextlib.contextmanager
def child(prepare: Callable[[], None] = lambda: None) -> Iterator[int]:
    """A process with all that is open and mapped here at its fork."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            os.write(told, b".")
            signal.pause()
        finally:
            os._exit(0)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"."
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def gone(thread: int) -> None:
    """Wait until a thread of ours has left the kernel too, which it does some time after join() returned."""
    deadline = time.monotonic() + MAX_WAIT
    while Path(f"/proc/self/task/{thread}").exists():
        assert time.monotonic() < deadline, f"thread {thread} has been joined for 10 s and still exists"
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = open_fds()
    yield
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(1)
    assert open_fds() == before


def test_an_eventfd_of_another_process_is_the_same_eventfd_here() -> None:
    theirs = os.eventfd(0, os.EFD_NONBLOCK)
    with child() as pid, contextlib.closing(Process(pid)) as caller:
        ours = caller.fetch(theirs, EVENTFD)
        os.eventfd_write(ours, 3)
        assert os.eventfd_read(theirs) == 3
        os.close(ours)
    os.close(theirs)


def test_what_is_no_eventfd_is_refused_in_words_and_not_kept() -> None:
    pipe = os.pipe()
    with child() as pid, contextlib.closing(Process(pid)) as caller:
        with pytest.raises(IoctlError, match=rf"file descriptor {pipe[0]} of process {pid} is 'pipe:"):
            caller.fetch(pipe[0], EVENTFD)
        with pytest.raises(IoctlError, match="cannot be fetched") as failure:
            caller.fetch(1000, EVENTFD)
        assert failure.value.errno == errno.EBADF
    for fd in pipe:
        os.close(fd)


def test_a_file_descriptor_swapped_after_the_first_look_is_refused_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = os.pipe()
    with child() as pid, contextlib.closing(Process(pid)) as caller:
        link = os.readlink
        monkeypatch.setattr(os, "readlink", lambda path: EVENTFD if str(pid) in path else link(path))
        with pytest.raises(IoctlError, match="'pipe:"):
            caller.fetch(pipe[0], EVENTFD)
    for fd in pipe:
        os.close(fd)


def test_a_thread_is_its_process_and_another_process_is_not() -> None:
    seen: list[int] = []
    go_on = threading.Event()

    def wait() -> None:
        seen.append(threading.get_native_id())
        go_on.wait(MAX_WAIT)

    thread = threading.Thread(target=wait)
    thread.start()
    while not seen:
        pass
    with contextlib.closing(Process(seen[0])) as caller:
        assert caller.pid == os.getpid()
        assert caller.is_caller(os.getpid())
        with child() as pid:
            assert not caller.is_caller(pid)
        go_on.set()
        thread.join()
        gone(seen[0])
        assert not caller.is_caller(seen[0])


def test_a_process_that_ended_calls_no_more() -> None:
    with child() as pid:
        caller = Process(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not caller.is_caller(pid)
        with pytest.raises(IoctlError):
            caller.fetch(0, EVENTFD)
        caller.close()
        with pytest.raises(IoctlError, match="is gone"):
            Process(pid)
    with pytest.raises(IoctlError, match="cannot be found"):
        Process(1 << 30)


def test_a_caller_of_another_pid_namespace_is_refused_with_the_remedy() -> None:
    with pytest.raises(IoctlError, match="another pid namespace") as failure:
        Process(0)
    assert failure.value.errno == errno.EPERM


def test_without_the_right_to_fetch_files_the_error_has_the_remedy() -> None:
    outcome, told = os.pipe()
    with child() as pid:
        other = os.fork()
        if other == 0:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            try:
                Process(pid).fetch(0, EVENTFD)
                os.write(told, b"fetched")
            except IoctlError as error:
                os.write(told, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(other, 0)
    sentence = os.read(outcome, 1000).decode()
    assert "cannot be fetched: Operation not permitted; run fwd as root, or with CAP_SYS_PTRACE" in sentence
    os.close(outcome)
    os.close(told)


# Memory


def region(user_addr: int, size: int = SIZE) -> SharedRegion:
    return SharedRegion(0, size, user_addr, 0)


def test_a_region_lies_at_its_offset_in_the_file_of_its_mapping() -> None:
    maps = parse_maps(MAPS)
    assert len(maps) == 7
    vma, offset = locate(maps, region(0x7F00_0010_1000, 0x1000))
    assert (vma.file, offset) == ((os.makedev(0, 1), 1025), 0x10_1000)


def test_a_region_may_span_mappings_that_go_on_in_one_file() -> None:
    maps = parse_maps(MAPS)
    vma, offset = locate(maps, region(0x7F00_0008_0000, SIZE))
    assert (vma.start, offset) == (0x7F00_0000_0000, 0x8_0000)


@pytest.mark.parametrize(
    ("start", "size", "why"),
    [
        (0x7F00_0010_0000, 2 * SIZE, "two files"),  # the same file, but not where it would go on
        (0x7F00_0020_0000, 2 * SIZE, "two files"),
        (0x7F00_0030_0000, 2 * SIZE, "private"),
        (0x7F00_0040_0000, SIZE, "private"),
        (0x7F00_0060_0000, SIZE, "cannot be read and written"),
        (0x7F00_0050_0000, SIZE, "nothing is mapped"),
        (0x7F00_0070_0000, 1, "nothing is mapped"),
        (0x7F00_0000_0000, 1 << 40, "two files"),
        (0, 1 << 63, "nothing is mapped at 0x0"),
        (0xFFFF_FFFF_FFFF_F000, 1 << 20, "nothing is mapped"),
    ],
)
def test_a_region_that_cannot_be_shared_is_refused_in_words(start: int, size: int, why: str) -> None:
    with pytest.raises(IoctlError, match=why):
        locate(parse_maps(MAPS), region(start, size))


def mapped(fd: int, flags: int = mmap.MAP_SHARED) -> tuple[mmap.mmap, int]:
    """A mapping and its address, of a child forked afterwards as well."""
    area = mmap.mmap(fd, SIZE, flags)
    ours = {vma for vma in parse_maps(open("/proc/self/maps", "rb").read())}  # noqa: PTH123, SIM115, C416
    inode = os.fstat(fd).st_ino if fd >= 0 else 0
    return area, next(vma.start for vma in ours if vma.file[1] == inode and vma.end - vma.start >= SIZE)


def reach(pid: int, address: int) -> bytes:
    """Write through a region of another process, as the data plane maps it, and read its first bytes."""
    with contextlib.closing(Process(pid)) as caller, contextlib.closing(GuestFiles(caller, [region(address)])) as files:
        (one,) = files.regions
        Mapping(files.fds[0], 0, one.bytes, one.user_addr, one.mmap_offset).close()
        with mmap.mmap(files.fds[0], SIZE, offset=one.mmap_offset) as here:
            return bytes(here[:5])


@pytest.mark.parametrize("keeps_its_fd", [True, False], ids=["fd kept", "fd closed"])
def test_memory_of_a_memfd_is_reached_with_its_fd_open_or_closed(keeps_its_fd: bool) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    area, address = mapped(fd)
    area[:5] = b"guest"
    with child(lambda: None if keeps_its_fd else os.close(fd)) as pid:
        assert reach(pid, address) == b"guest"
    area.close()
    os.close(fd)


def test_memory_that_only_its_process_sees_is_refused_with_the_remedy() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    area, address = mapped(fd, mmap.MAP_PRIVATE)
    with child() as pid, pytest.raises(PrivateError, match="share=on"):
        reach(pid, address)
    area.close()
    os.close(fd)


def test_a_private_region_beside_a_shared_one_is_left_out() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    area, address = mapped(fd)
    maps = [Vma(0x1000, 0x1000 + SIZE, "rw-p", 0, (0, 0), "")]
    with child() as pid, contextlib.closing(Process(pid)) as caller:
        real = parse_maps(open(f"/proc/{pid}/maps", "rb").read())  # noqa: PTH123, SIM115
        files = GuestFiles(caller, [region(0x1000), region(address)], [*maps, *real])
        assert [one.user_addr for one in files.regions] == [address]
        files.close()
    area.close()
    os.close(fd)


def test_a_mapping_that_is_another_file_by_now_is_refused() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    area, address = mapped(fd)
    with child() as pid, contextlib.closing(Process(pid)) as caller:
        real = parse_maps(open(f"/proc/{pid}/maps", "rb").read())  # noqa: PTH123, SIM115
        stale = [vma._replace(file=(vma.file[0], 1)) if vma.start == address else vma for vma in real]
        with pytest.raises(IoctlError, match="changed while it was read"):
            GuestFiles(caller, [region(address)], stale)
    area.close()
    os.close(fd)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_where_no_process_can_be_held_the_refusal_names_the_call_that_is_forbidden(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(IoctlError, match="allow the system call pidfd_open in the seccomp filter"):
        Process(threading.get_native_id())
