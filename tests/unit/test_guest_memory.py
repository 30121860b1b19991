"""Mapping guest memory: what is accepted, what is refused and why, and the effect of SIGBUS."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastvhost.dataplane.guest_memory import MAX_REGIONS, GuestMemory, Mapping, MemoryRefusedError, file_system
from tests.driver import Memory, Region
from tests.probes.lookups import holds_guest, holds_user
from tests.unit.rig import MIB, frame, mapped, rig


@pytest.fixture
def fd() -> int:
    made = os.memfd_create("test")
    os.ftruncate(made, 1 << 20)
    return made


def maps_of(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(name)


@pytest.mark.parametrize(
    ("guest_addr", "bytes", "user_addr", "offset", "words"),
    [
        (0, 0, 0, 0, "empty"),
        (2**64 - 4096, 8192, 0, 0, "wrap"),
        (0, 8192, 2**64 - 4096, 0, "wrap"),
        (0, 8192, 0, 2**64 - 4096, "wrap"),
        (0, (1 << 20) + 1, 0, 0, "as long as"),
        (0, 1 << 20, 0, 1, "as long as"),
        (0, 2**63, 0, 0, "as long as"),
    ],
)
def test_a_region_that_does_not_fit_its_file_or_its_addresses_is_refused(
    fd: int, guest_addr: int, bytes: int, user_addr: int, offset: int, words: str
) -> None:
    with pytest.raises(MemoryRefusedError, match=words):
        Mapping(fd, guest_addr, bytes, user_addr, offset)


def test_a_descriptor_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for bad in (os.eventfd(0), os.open(tmp_path, os.O_RDONLY), os.pipe()[0]):
        with pytest.raises(MemoryRefusedError):
            Mapping(bad, 0, 4096, 0, 0)
    with pytest.raises(MemoryRefusedError):
        Mapping(9999, 0, 4096, 0, 0)


def test_a_file_open_for_reading_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ro"
    path.write_bytes(bytes(8192))
    with pytest.raises(MemoryRefusedError, match="reading and writing"):
        Mapping(os.open(path, os.O_RDONLY), 0, 4096, 0, 0)


def test_whoever_knows_the_files_page_size_is_believed_and_the_file_system_not_asked_again(fd: int) -> None:
    (by_kernel, small), (by_huge, huge) = file_system(fd), file_system(os.memfd_create("huge", os.MFD_HUGETLB))
    assert (by_kernel, by_huge) == (None, None)
    assert (small, huge % small) == (os.sysconf("SC_PAGESIZE"), 0)
    assert huge > small
    Mapping(fd, 0, small, 0, small, small).close()
    # Where the file is looked at, the mapping begins at a page of it.
    with pytest.raises(MemoryRefusedError, match="Invalid argument"):
        Mapping(fd, 0, small, 0, small // 8, small // 8)
    with pytest.raises(MemoryRefusedError, match="as long as"):
        Mapping(fd, 0, 1 << 20, 0, small, small)


def test_the_mmap_offset_need_not_be_a_multiple_of_the_page_size(fd: int) -> None:
    os.pwrite(fd, b"hello", 5000)
    with_offset = Mapping(fd, 0x1000, 8192, 0x7000, 5000)
    assert holds_guest(GuestMemory([with_offset]), 0x1000, 8192)
    with_offset.close()
    assert with_offset.closed


def test_a_region_begins_at_its_offset_in_the_file_to_the_byte() -> None:
    with rig(memory=Memory([Region(0x10000, 8 * MIB, mmap_offset=0x1230)])) as r:
        r.b.driver.post()
        r.a.driver.send(frame(1))
        r.settle()
        assert r.b.driver.receive_all() == [frame(1)]


def hugepages() -> dict[str, int]:
    """Of the pool of 2 MiB pages: how many there are, are free, and are reserved."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("HugePages_")}


def test_huge_pages_that_the_pool_does_not_have_are_mapped_and_none_is_reserved() -> None:
    """As front-ends map memory that may grow (virtio-mem, reserve=off). A missing page faults later."""
    before = hugepages()
    fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    size = (before["HugePages_Total"] + 4) * 2 * MIB
    os.ftruncate(fd, size)
    mapping = Mapping(fd, 0, size, 0, 0)
    assert holds_guest(GuestMemory([mapping]), 0, size)
    assert hugepages() == before
    mapping.close()
    os.close(fd)
    assert hugepages() == before


def test_overlapping_regions_are_refused_by_guest_and_by_user_address(fd: int) -> None:
    low, touching = Mapping(fd, 0, 8192, 0, 0), Mapping(fd, 8192, 4096, 8192, 0)
    assert GuestMemory([touching, low]).mappings == (low, touching)
    with pytest.raises(MemoryRefusedError, match="guest_addr"):
        GuestMemory([low, Mapping(fd, 8191, 4096, 1 << 30, 0)])
    with pytest.raises(MemoryRefusedError, match="user_addr"):
        GuestMemory([low, Mapping(fd, 1 << 30, 4096, 4096, 0)])


def test_an_empty_table_and_one_with_too_many_regions_are_refused(fd: int) -> None:
    with pytest.raises(MemoryRefusedError, match="empty"):
        GuestMemory([])
    many = [Mapping(fd, i * 4096, 4096, i * 4096, 0) for i in range(MAX_REGIONS + 1)]
    assert len(GuestMemory(many[1:]).mappings) == MAX_REGIONS
    with pytest.raises(MemoryRefusedError, match="509"):
        GuestMemory(many)


def test_ranges_are_found_to_the_byte_and_across_adjacent_regions_for_guest_addresses_only(fd: int) -> None:
    memory = GuestMemory([Mapping(fd, 0x10000, 4096, 0x900000, 0), Mapping(fd, 0x11000, 4096, 0xA00000, 4096)])
    assert holds_guest(memory, 0x10000, 8192)
    assert holds_guest(memory, 0x11FFF, 1)
    assert not holds_guest(memory, 0x12000, 1)
    assert not holds_guest(memory, 0xFFFF, 2)
    assert not holds_guest(memory, 0x10001, 8192)
    assert not holds_guest(memory, 2**64 - 1, 2)
    assert holds_user(memory, 0x900000, 4096)
    assert not holds_user(memory, 0x900000, 4097)
    assert not holds_user(memory, 0x8FFFFF, 1)


def test_closing_unmaps_and_closing_again_is_nothing() -> None:
    fd = os.memfd_create("fastvhost-unmap-test")
    os.ftruncate(fd, 8192)
    one = Mapping(fd, 0, 8192, 0, 0)
    assert maps_of("fastvhost-unmap-test") == 1
    one.close()
    one.close()
    assert maps_of("fastvhost-unmap-test") == 0


def test_a_file_cut_short_under_traffic_faults_that_memory_and_the_other_guest_goes_on() -> None:
    with rig() as r:
        r.b.driver.post(5)
        r.a.driver.send(frame(1))
        r.settle()
        r.a.driver.send(frame(2))
        r.a.memory.regions[0].truncate(0)
        for _ in range(5):
            r.worker.step()
        faults = [e for e in r.a.port.events() if e[0] == "faulted"]
        assert len(faults) == 1
        assert "SIGBUS" in faults[0][2]
        assert not [e for e in r.b.port.events() if e[0] == "faulted"]
        # set up anew with memory that is there, it works again
        r.a.port.set_memory(None)
        fresh = Memory([Region(0x10000, 8 * MIB)])
        r.a.memory.close()
        r.a.memory = fresh
        for queue in r.a.queues:
            queue.memory = fresh
            queue.reset()
        r.a.driver.memory = fresh
        r.a.driver._spare.clear()
        fresh.take(1 << 20)
        r.a.port.set_memory(mapped(fresh))
        for index in range(2):
            r.a.port.stop_queue(index)
            r.a.start(index)
        r.a.driver.send(frame(3))
        r.settle()
        assert r.b.driver.receive_all()[-1] == frame(3)


def place_of(name: str) -> int:
    """Where a memfd of this name is mapped."""
    line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if f"/memfd:{name}" in line)
    return int(line.partition("-")[0], 16)


def inode_of(fd: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.fstat(fd).st_ino
    return None


def cut_short(name: str) -> tuple[Mapping, int]:
    """A mapping whose file was truncated to nothing, and its address."""
    fd = os.memfd_create(name)
    os.ftruncate(fd, MIB)
    mapping = Mapping(fd, 0, MIB, 0, 0)
    os.ftruncate(fd, 0)
    address = place_of(name)
    os.close(fd)
    return mapping, address


def test_what_is_written_to_memory_that_vanished_is_seen_by_no_other_mapping_then_or_later() -> None:
    (first, at), (second, beside) = cut_short("first"), cut_short("second")
    ctypes.memset(at, 7, MIB)
    assert (ctypes.string_at(at, MIB), first.faulted) == (b"\7" * MIB, True)
    assert (ctypes.string_at(beside, MIB), second.faulted) == (bytes(MIB), True)
    first.close()
    later, at = cut_short("later")  # with the guard of the first
    assert (ctypes.string_at(at, MIB), later.faulted) == (bytes(MIB), True)
    for mapping in (second, later):
        mapping.close()


def test_pages_of_memory_that_vanished_are_let_go_of_with_the_mapping() -> None:
    mapping, at = cut_short("large")
    ctypes.memset(at, 7, MIB)
    maps = Path("/proc/self/maps").read_text().splitlines()
    (spare,) = {line.split()[4] for line in maps if "fastvhost-lost" in line}
    own = next(fd for fd in range(3, 1000) if inode_of(fd) == int(spare))
    before = os.fstat(own).st_blocks * 512
    mapping.close()
    assert before - os.fstat(own).st_blocks * 512 >= MIB


def test_sigbus_elsewhere_still_ends_the_process() -> None:
    script = """
import ctypes, mmap, os
from fastvhost.dataplane.guest_memory import Mapping
fd = os.memfd_create("file")
os.ftruncate(fd, 8192)
guest = Mapping(fd, 0, 4096, 0, 0)
other = os.memfd_create("other")
os.ftruncate(other, 8192)
ours = mmap.mmap(other, 8192)
os.ftruncate(other, 0)
ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(ours)), 1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGBUS, done.stderr.decode()


def test_a_few_bytes_are_read_and_written_in_one_region_only(fd: int) -> None:
    first, second = Mapping(fd, 0x10000, 4096, 0x7000, 0), Mapping(fd, 0x11000, 4096, 0x9000_0000, 4096)
    memory = GuestMemory([first, second])
    memory.write(0x10FFC, b"abcd")
    memory.write(0x11000, b"ef")
    assert memory.read(0x10FFC, 4) == b"abcd"
    assert os.pread(fd, 6, 4092) == b"abcdef"
    memory.store_u16(0x11002, 0x1234)
    assert memory.load_u16(0x11002) == 0x1234
    assert memory.read(0x11002, 2) == b"\x34\x12"
    assert memory.guest_of_user(0x9000_0002, 4094) == 0x11002
    for outside in (
        lambda: memory.read(0x10FFD, 4),
        lambda: memory.write(0x11FFF, b"ab"),
        lambda: memory.read(0xFFFF, 1),
        lambda: memory.load_u16(2**64 - 2),
        lambda: memory.store_u16(0x12000, 1),
        lambda: memory.guest_of_user(0x9000_0002, 4095),
        lambda: memory.guest_of_user(0x6FFF, 1),
    ):
        with pytest.raises(LookupError, match="lie in no region"):
            outside()
    with pytest.raises(ValueError, match="odd address"):
        memory.load_u16(0x10001)
    with pytest.raises(ValueError, match="4096 are the most"):
        memory.read(0x10000, 4097)
    first.close()
    with pytest.raises(LookupError, match="closed already"):
        memory.read(0x10000, 1)
    assert memory.load_u16(0x11002) == 0x1234
    second.close()
