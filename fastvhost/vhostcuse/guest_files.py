"""Finds the files of a front-end's memory: file descriptor and offset for an address in its process. proc(5).

vhost-net's table has addresses in the front-end's own address space, which a kernel can access. From user space the
same memory can only be mapped by its file, so it must have one: private memory is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from fastvhost.backend import foreign_files
from fastvhost.backend.advice import SHARE
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.payload import SharedRegion
from fastvhost.vhostcuse.caller import PERMIT, Caller, IoctlError

MOST_FDS = 1 << 16
"""The most file descriptors of a front-end that are searched for one file."""
MOST_MAPS_BYTES = 1 << 24
"""The most bytes of its list of mappings that are read: 65530 mappings, the kernel's own limit, fit in."""
_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)")


class Vma(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    file: tuple[int, int]
    """Device and inode."""
    path: str


class PrivateError(IoctlError):
    """Private memory, which no other process can map."""


def parse_maps(text: bytes) -> list[Vma]:
    """The mappings of a process, lowest first."""
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        start, end, offset = (int(match[n], 16) for n in (1, 2, 4))
        file = os.makedev(int(match[5], 16), int(match[6], 16)), int(match[7])
        found.append(Vma(start, end, match[3].decode(), offset, file, os.fsdecode(match[8])))
    return found


def locate(maps: Sequence[Vma], region: SharedRegion) -> tuple[Vma, int]:
    """The mapping a region begins in, and the offset of its first byte in that file.

    A region may cross several mappings, if they are adjacent in one file. Raises IoctlError, one sentence.
    """
    what = f"the region at guest address {region.guest_addr:#x}"
    at, end = region.user_addr, region.user_addr + region.bytes
    first: Vma | None = None
    for vma in maps:
        if vma.end <= at:
            continue
        if vma.start > at:
            break
        if vma.permissions[3] != "s":
            raise PrivateError(errno.EFAULT, f"{what} is private memory, which only its own process sees; {SHARE}")
        if vma.permissions[:2] != "rw":
            raise IoctlError(errno.EFAULT, f"{what} cannot be read and written ({vma.permissions})")
        if first is None:
            first = vma
        elif (vma.file, vma.offset - vma.start) != (first.file, first.offset - first.start):
            raise IoctlError(errno.EFAULT, f"{what} lies in two files; give the guest's memory one file")
        at = vma.end
        if at >= end:
            return first, first.offset + region.user_addr - first.start
    raise IoctlError(errno.EFAULT, f"{what}: nothing is mapped at {at:#x} in its process")


def read_maps(pid: int) -> list[Vma]:
    """The mappings of a process. Raises ProtocolError."""

    def read() -> bytes:
        with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123
            return file.read(MOST_MAPS_BYTES)

    try:
        # The process can make this read wait: so wait for it a limited time only.
        return parse_maps(foreign_files.within(read, unanswered=f"process {pid} does not let its mappings be read"))
    except OSError as error:
        raise IoctlError(
            errno.EPERM, f"the mappings of process {pid} cannot be read: {error.strerror}; {PERMIT}"
        ) from error


def open_file(caller: Caller, vma: Vma, *, any_file: bool = True) -> int:
    """The file of a mapping, open for reading and writing. any_file: as examine() has it. Raises ProtocolError."""
    for fd in _fds_of(caller.pid, vma.path):
        with contextlib.suppress(IoctlError):
            ours = caller.fetch(fd, vma.path)
            if _is(ours, vma, any_file):
                return ours
            foreign_files.close(ours)
    # The process closed the file after mapping it. Opening it by the mapping needs more rights.
    path = f"/proc/{caller.pid}/map_files/{vma.start:x}-{vma.end:x}"
    try:
        ours = foreign_files.within(lambda: os.open(path, os.O_RDWR | os.O_CLOEXEC), late=foreign_files.close)
    except OSError as error:
        raise IoctlError(
            errno.EPERM,
            f"no file descriptor of process {caller.pid} is {vma.path!r}, and it cannot be opened by its mapping: "
            f"{error.strerror}; run fwd as root, or with CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE",
        ) from error
    foreign_files.keep([ours])
    if not _is(ours, vma, any_file):
        foreign_files.close(ours)
        raise IoctlError(errno.EFAULT, f"the mapping of {vma.path!r} in process {caller.pid} changed while it was read")
    return ours


def _fds_of(pid: int, path: str) -> list[int]:
    """The file descriptors of a process whose link is this path. Reading a link asks no file system."""
    found = []
    with contextlib.suppress(OSError):
        for n, name in enumerate(os.listdir(f"/proc/{pid}/fd")):  # noqa: PTH208
            if n >= MOST_FDS:
                break
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}") == path:  # noqa: PTH115
                    found.append(int(name))
    return found


def _is(fd: int, vma: Vma, any_file: bool) -> bool:
    """Whether fd is this mapping's file, and can be mapped for writing. Closes fd where it cannot be examined."""
    try:
        same = foreign_files.examine(fd, any_file=any_file).identity == vma.file
    except ProtocolError:
        foreign_files.close(fd)
        raise
    return same and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


class GuestFiles:
    """The regions of a front-end, each with its offset in a file, and that file open. Owns the files."""

    def __init__(
        self,
        caller: Caller,
        regions: Sequence[SharedRegion],
        maps: Sequence[Vma] | None = None,
        *,
        any_file: bool = True,
    ) -> None:
        """Regions of private memory (a guest's ROMs) are left out, unless there are no others."""
        self.regions: list[SharedRegion] = []
        self.fds: list[int] = []
        self.identities: list[tuple[int, int]] = []
        opened: dict[tuple[int, int], int] = {}
        maps = read_maps(caller.pid) if maps is None else maps
        refusal: PrivateError | None = None
        try:
            for region in regions:
                try:
                    vma, offset = locate(maps, region)
                except PrivateError as error:
                    refusal = refusal or error
                    continue
                if vma.file not in opened:
                    opened[vma.file] = open_file(caller, vma, any_file=any_file)
                self.fds.append(opened[vma.file])
                self.identities.append(vma.file)
                self.regions.append(SharedRegion(region.guest_addr, region.bytes, region.user_addr, offset))
            if refusal is not None and not self.regions:
                raise refusal
        except BaseException:
            _close_all(opened)
            raise
        self._opened = opened

    def close(self) -> None:
        """Close the files; mappings of them stay. Idempotent."""
        _close_all(self._opened)


def _close_all(opened: dict[tuple[int, int], int]) -> None:
    while opened:
        foreign_files.close(opened.popitem()[1])
