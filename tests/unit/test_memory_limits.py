"""How much guest memory a port maps, from which files, and that nothing is lost where fwd's own resources run out."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend import foreign_files, quota, session_state
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.memory import REAL_MEMORY, SharedMemory
from fastvhost.backend.memory_limit import own_limit
from fastvhost.backend.payload import SharedRegion
from fastvhost.control import port_keys, port_text
from fastvhost.control.errors import UsageError
from fastvhost.dataplane.guest_memory import Mapping
from fastvhost.vhostuser.message import MemoryTable
from tests.frontend import Request
from tests.lingering import lingering
from tests.unit.fake_port import AtOnce
from tests.unit.service_rig import Rig, until
from tests.unit.session_bench import Bench

GIB = 1 << 30
MIB = 1 << 20


def sparse(size: int) -> int:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, size)
    return fd


def shared(most_bytes: int = 0, *, any_file: bool = False) -> SharedMemory:
    return SharedMemory(lambda _: (), AtOnce(), REAL_MEMORY._replace(most_bytes=most_bytes, any_file=any_file))


def region(index: int, size: int, offset: int = 0) -> SharedRegion:
    return SharedRegion(index << 48, size, index << 48, offset)


def mapped(name: str = "/memfd:ram") -> int:
    return Path("/proc/self/maps").read_text().count(name)


# The limit


def test_no_memfd_however_long_takes_the_address_space_from_another_port() -> None:
    hostile, honest = shared(), shared()
    huge, small = sparse(1 << 62), sparse(MIB)
    for index in range(78):
        with pytest.raises(ProtocolError, match=r"limit is .* this machine has.*memory=64G"):
            hostile.add(region(index, 1 << 41), huge)
    assert mapped() == 0
    honest.add(region(0, MIB), small)
    assert honest.bytes == MIB
    honest.close()


def test_the_limit_is_of_all_regions_together_whether_they_come_one_by_one_or_as_a_table() -> None:
    memory, fd = shared(3 * MIB), sparse(8 * MIB)
    memory.replace([region(0, MIB), region(1, MIB)], [fd, fd])
    memory.add(region(2, MIB), fd)
    with pytest.raises(ProtocolError, match=r"4 MiB in all.*limit is 3 MiB, its memory= says so"):
        memory.add(region(3, MIB), fd)
    with pytest.raises(ProtocolError, match="limit"):
        memory.replace([region(0, 2 * MIB), region(1, 2 * MIB)], [fd, fd])
    assert len(memory.regions) == 3
    memory.remove(memory.regions[0])
    memory.add(region(3, MIB), fd)
    memory.close()


def test_another_table_of_the_same_size_replaces_one_that_is_as_large_as_the_limit() -> None:
    memory, fd = shared(MIB), sparse(MIB)
    for _ in range(3):
        memory.replace([region(0, MIB)], [fd])
    memory.close()


def test_what_counts_are_the_pages_that_are_mapped() -> None:
    memory, fd = shared(4 * mmap.PAGESIZE), sparse(MIB)
    memory.add(region(0, 2, mmap.PAGESIZE - 1), fd)  # in two pages
    memory.add(region(1, 1), fd)
    with pytest.raises(ProtocolError, match="limit"):
        memory.add(region(2, mmap.PAGESIZE + 1), fd)
    memory.close()


@pytest.mark.parametrize("kind", ["vhost-user:/tmp/a.sock", "cuse:fv0"])
@pytest.mark.parametrize(
    ("text", "size"), [("64G", 64 * GIB), ("512M", 512 * MIB), ("2T", 2048 * GIB), ("1073741824", GIB)]
)
def test_a_port_of_a_guest_takes_a_limit_of_its_own(kind: str, text: str, size: int) -> None:
    spec = port_text.parse(f"{kind},memory={text}")
    assert port_keys.most_memory(spec) == size
    assert port_text.parse(str(spec)) == spec


def test_the_limit_stands_in_a_table_of_a_configuration_file_too() -> None:
    table = {"path": "/tmp/a.sock", "memory": 64 * GIB, "memory-files": "any"}
    spec = port_text.from_table(table)
    assert (port_keys.most_memory(spec), port_keys.any_memory_file(spec)) == (64 * GIB, True)
    assert "memory=64G,memory-files=any" in str(spec)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "64GB", "4K", "65T", "9" * 30, "all"])
def test_a_limit_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="memory="):
        port_text.parse(f"/tmp/a.sock,memory={text}")


def test_other_kinds_of_files_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match="use kernel or any"):
        port_text.parse("/tmp/a.sock,memory-files=disk")
    with pytest.raises(UsageError, match="no key 'memory'"):
        port_text.parse("tap:t0,memory=1G")


# Files


def test_a_file_on_a_disk_is_guest_memory_only_on_request(tmp_path: Path) -> None:
    if foreign_files.is_kernel_memory(fd := os.open(tmp_path / "ram", os.O_RDWR | os.O_CREAT)):
        fd = os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR)  # where temporary files are on tmpfs
    assert not foreign_files.is_kernel_memory(fd)
    os.ftruncate(fd, MIB)
    with pytest.raises(ProtocolError, match=r"no memfd.*memory-files=any"):
        shared().add(region(0, MIB), fd)
    memory = shared(any_file=True)
    memory.add(region(0, MIB), fd)
    memory.close()


@pytest.mark.parametrize("any_file", [False, True])
def test_what_a_file_is_is_decided_without_its_fdinfo(monkeypatch: pytest.MonkeyPatch, any_file: bool) -> None:
    """An epoll's fdinfo takes a lock that its owner may hold for ever."""
    opened: list[str] = []
    real = open

    def watching(path: object, *rest: object, **more: object) -> object:
        opened.append(str(path))
        return real(path, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", watching)
    monkeypatch.setattr("io.open", watching)
    import select

    epoll = select.epoll()
    for fd in (epoll.fileno(), sparse(MIB), os.eventfd(0), os.pipe()[0], socket.socket(socket.AF_UNIX).detach()):
        with contextlib.suppress(ProtocolError):
            foreign_files.examine(os.dup(fd), any_file=any_file)
        foreign_files.close(os.dup(fd))
    assert [path for path in opened if "fdinfo" in path] == []


# Who is charged


def cgroup(directory: Path, *, version: int, limits: dict[str, str]) -> tuple[Path, Path]:
    root, groups = directory / "cgroup", directory / "groups"
    top, file = (root, "memory.max") if version == 2 else (root / "memory", "memory.limit_in_bytes")
    for group, limit in limits.items():
        (top / group).mkdir(parents=True, exist_ok=True)
        (top / group / file).write_text(f"{limit}\n")
    groups.write_text("0::/system/fwd\n" if version == 2 else "4:memory:/system/fwd\n2:cpu:/\n")
    return root, groups


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_limit_of_all_groups_counts(tmp_path: Path, version: int) -> None:
    none = "max" if version == 2 else "9223372036854771712"
    places = cgroup(tmp_path, version=version, limits={"system/fwd": none, "system": str(400 * MIB)})
    assert own_limit(*places) == 400 * MIB
    places = cgroup(tmp_path, version=version, limits={"system/fwd": none, "system": none})
    assert own_limit(*places) is None


@pytest.mark.parametrize(("limit", "said"), [(400 * MIB, 1), (None, 0), (1 << 40, 0)])
def test_memory_without_pages_is_warned_of_once_where_fwd_has_a_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, said: int
) -> None:
    monkeypatch.setattr(session_state, "own_limit", lambda: limit)
    bench = Bench(memory=REAL_MEMORY)
    for size in (GIB, 2 * GIB):
        bench.send(Request.SET_MEM_TABLE, MemoryTable((region(0, size),)), [sparse(size)])
    assert not bench.ended
    lines = [line.text for line in bench.narrative.take() if "prealloc=on" in line.text]
    assert len(lines) == said
    bench.close()


def test_memory_with_its_pages_is_no_reason_to_warn() -> None:
    memory, fd = shared(), sparse(MIB)
    memory.replace([region(0, MIB)], [fd])
    assert memory.untouched == MIB
    os.pwrite(fd, bytes(MIB), 0)
    memory.replace([region(0, MIB)], [fd])
    assert memory.untouched == 0
    memory.close()


# fwd's own resources


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def no_thread(_self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_cannot_be_started_loses_no_descriptor_and_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = quota.Quota()
    quota.use(mine)
    before = open_fds()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(quota.MOST_THREADS + 1):
            fds = [*os.pipe(), socket.socket().detach()]
            foreign_files.close_all(fds)
            assert fds == []
            with pytest.raises(ProtocolError, match="can't start new thread"):
                foreign_files.within(lambda: 1)
    assert open_fds() == before
    assert foreign_files.within(lambda: 1) == 1
    until(lambda: not any(thread.name == "foreign-file" for thread in threading.enumerate()))


def test_a_mapping_that_cannot_be_made_loses_no_descriptor_and_keeps_the_table() -> None:
    made: list[Mapping] = []

    def fails_at_the_third(*words: int) -> Mapping:
        if len(made) == 2:
            raise MemoryError
        made.append(Mapping(*words))
        return made[-1]

    memory = SharedMemory(lambda _: (), AtOnce(), REAL_MEMORY._replace(mapping=fails_at_the_third))
    fd = sparse(MIB)
    with pytest.raises(MemoryError):
        memory.replace([region(index, MIB) for index in range(3)], [fd] * 3)
    assert (mapped(), memory.regions) == (0, ())


def test_a_front_end_cannot_take_the_places_of_another_port(tmp_path: Path) -> None:
    """64 sockets whose close lingers, one a message: a file of another port's front-end is still asked about."""
    with contextlib.closing(Rig(tmp_path / "s")) as rig, lingering(64) as socks:
        for sock in socks:
            with contextlib.closing(rig.frontend()) as frontend:
                # Ours is closed while the message is half sent, so that the port has the last one.
                frontend.send_raw(struct.pack("<III", Request.SET_FEATURES, 1, 8), [sock.fileno()])
                sock.close()
                frontend.send_raw(bytes(8))
                assert frontend.wait_closed()
        asked: list[int] = []

        def other_port() -> None:
            quota.use(quota.Quota())
            asked.append(foreign_files.within(lambda: 7))

        thread = threading.Thread(target=other_port)
        thread.start()
        thread.join(MAX_WAIT)
        assert asked == [7]
    assert rig.service.defects == 0
