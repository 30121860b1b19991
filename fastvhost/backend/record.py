"""What outlives fwd of a port: what its front-end acknowledged, and where its packed rings stand.

A file on a memory file system, mapped as long as the port exists. The next fwd finds it as this one left it, killed or
not. On a disk the kernel writes such a page back now and then, and a worker that stores into it meanwhile waits for the
disk; so no record is kept there.

It is used only for the front-end process that it was written about, in the same boot of this machine, and only while
the guest's memory is the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from fastvhost.backend import foreign_files
from fastvhost.dataplane.packed_journal import JOURNAL_BYTES

MAGIC, VERSION = b"fvrecord", 1
HEADER = struct.Struct("<8sII16sQQQQQ")
"""Magic, version, pid namespace, boot id, acknowledged feature bits, then of the front-end:

its process id, when that process started, and device and inode of the file of its guest's memory.
"""
HEADER_BYTES = 128
NOBODY = NO_FILE = 0, 0
UNKNOWN_BOOT = bytes(16)


class RecordError(Exception):
    """No record can be kept there. One clause, without the path."""


class Record:
    """One port's record. Raises RecordError where none can be kept at this path."""

    def __init__(self, path: str, rings: int) -> None:
        self.path = path
        self._closed = False
        n_bytes = HEADER_BYTES + rings * JOURNAL_BYTES
        fd = _open(path)
        fresh = os.fstat(fd).st_size == 0
        try:
            if not foreign_files.is_kernel_memory(fd):
                raise RecordError("it lies on no memory file system")
            if os.fstat(fd).st_size < n_bytes:
                os.posix_fallocate(fd, 0, n_bytes)  # allocates now: a worker's store must not find the file system full
            with contextlib.suppress(OSError):  # abandoned() in another process holds this lock for a moment
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # held while it is mapped, since mmap has a duplicate
            self._map = mmap.mmap(fd, n_bytes)
        except (OSError, RecordError) as error:
            if fresh:
                self._remove()
            raise RecordError(getattr(error, "strerror", None) or str(error)) from error
        finally:
            os.close(fd)
        magic, version, _, boot, *_ = self._header()
        if (magic, version, boot) != (MAGIC, VERSION, _boot_id()):
            self._about(0, NOBODY)
            self._forget_rings()

    @property
    def journals(self) -> memoryview:
        """The part of the file for VirtioPort.keep_journals(): a journal for each ring."""
        return memoryview(self._map)[HEADER_BYTES:]

    def acknowledged(self, pid: int) -> int:
        """The feature bits that this process acknowledged, to this fwd or an earlier one; 0 for another process.

        For another process the journals of its rings are cleared. pid: 0 where it is not known; then the record is
        used.
        """
        _, _, namespace, _, features, *process = self._header()[:7]
        now = _process(pid)
        # A fwd in another container knows the same process by another id. When it started is the same for both.
        known = now if namespace == _pid_namespace() else (process[0], now[1])
        if pid and tuple(process) not in (NOBODY, known):
            self._about(0, NOBODY)
            self._forget_rings()
            return 0
        return features

    def acknowledge(self, features: int, pid: int) -> None:
        self._about(features, _process(pid), self._header()[7:])

    def met(self, files: Sequence[tuple[int, int]]) -> None:
        """The guest's memory lies in these files (device and inode).

        If they are not the recorded ones, it is another guest.
        """
        *_, features, pid, started, device, inode = self._header()
        if files and (device, inode) not in files:
            if (device, inode) != NO_FILE:
                self._forget_rings()
            self._about(features, (pid, started), files[0])

    def close(self) -> None:
        """Remove the file, unless the front-end process still runs and may connect to the next fwd. Idempotent.

        It stays mapped as long as a port keeps its journals; and no longer, whoever still refers to this record.
        """
        if self._closed:
            return
        _, _, _, _, features, *process = self._header()[:7]
        pid = process[0]
        if not features or (pid and _process(pid) != tuple(process)):
            self._remove()
        self._closed = True
        del self._map

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108

    def _header(self) -> tuple[bytes, int, int, bytes, int, int, int, int, int]:
        return HEADER.unpack_from(self._map)

    def _about(self, features: int, process: tuple[int, int], file: tuple[int, int] = NO_FILE) -> None:
        HEADER.pack_into(self._map, 0, MAGIC, VERSION, _pid_namespace(), _boot_id(), features, *process, *file)

    def _forget_rings(self) -> None:
        self._map[HEADER_BYTES:] = bytes(len(self._map) - HEADER_BYTES)


def _open(path: str) -> int:
    """Open or make the file. Raises RecordError unless it is a plain file that only this user can access."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, flags)
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
                return fd
            os.close(fd)
            raise RecordError("something else is there that is not fwd's")
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise RecordError(error.strerror or str(error)) from error


@functools.cache
def _boot_id() -> bytes:
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return UNKNOWN_BOOT  # ProcSubset=pid of a unit


@functools.cache
def _pid_namespace() -> int:
    """The inode of this process's pid namespace; 0 where it cannot be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino & 0xFFFFFFFF  # noqa: PTH116
    except OSError:
        return 0


def _process(pid: int) -> tuple[int, int]:
    """A process and when it started, in clock ticks since boot (proc(5)); NOBODY where it is not visible here."""
    try:
        return pid, int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return NOBODY


def abandoned(path: Path) -> bool:
    """Whether the file at this path is a record that nobody needs: no fwd has it open, and its front-end has ended, or
    acknowledged nothing, or is of another boot.

    A process of another pid namespace is not visible here, so a record about one is never taken for abandoned.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            magic, _, namespace, boot, features, *process = HEADER.unpack(file.read(HEADER.size))[:7]
    except (OSError, struct.error):
        return False
    if magic != MAGIC or namespace != (_pid_namespace() or None) or _boot_id() == UNKNOWN_BOOT:
        return False
    return boot != _boot_id() or not features or (process[0] and _process(process[0]) != tuple(process))
