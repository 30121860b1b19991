"""The kernel's side of CUSE, without a kernel: it sends requests, with ioctl retries, and returns the answers."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

from fastvhost.vhostcuse.caller import IoctlError

IN = struct.Struct("=IIQQIIII")
OUT = struct.Struct("=IiQ")
IOCTL_IN = struct.Struct("=QIIQII")
IOCTL_OUT = struct.Struct("=iIII")
UNRESTRICTED = 2
RETRY = 4
THREAD, OTHER_THREAD = 7001, 8001
ADDRESS = 0x7FFF_0000_1000
MOST_TRIES = 4
"""No ioctl needs more than three attempts; more are an endless loop."""


def request(opcode: int, body: bytes = b"", *, thread: int = THREAD, unique: int = 2) -> bytes:
    return IN.pack(IN.size + len(body), opcode, unique, 0, 0, 0, thread, 0) + body


def ioctl_body(handle: int, command: int, data: bytes = b"", out: int = 0, flags: int = UNRESTRICTED) -> bytes:
    return IOCTL_IN.pack(handle, flags, command, ADDRESS, len(data), out) + data


class FakeKernel:
    """Sends requests, as the kernel does, to a dispatcher or to a service behind a socket."""

    def __init__(self, ask: Callable[[bytes], bytes | None]) -> None:
        self._ask = ask
        self._unique = 0

    def ask(self, opcode: int, body: bytes = b"", thread: int = THREAD) -> tuple[int, bytes]:
        """(errno, body of the answer)."""
        self._unique += 2
        answer = self._ask(request(opcode, body, thread=thread, unique=self._unique))
        assert answer is not None
        length, error, unique = OUT.unpack_from(answer)
        assert (length, unique) == (len(answer), self._unique)
        assert -1000 < error <= 0
        return -error, answer[OUT.size :]

    def open(self, thread: int = THREAD) -> int:
        error, body = self.ask(14, struct.pack("=II", 2, 0), thread)
        assert error == 0
        return int(struct.unpack("=QII", body)[0])

    def close(self, handle: int, thread: int = THREAD) -> None:
        assert self.ask(18, struct.pack("=QIIQ", handle, 2, 0, 0), thread) == (0, b"")

    def ioctl(
        self, handle: int, command: int, memory: bytes | Callable[[], bytes] = b"", thread: int = THREAD
    ) -> tuple[int, bytes]:
        """What the calling program gets: an errno, and the data written back.

        memory: the data at its pointer, at each attempt.
        """
        data, out = b"", 0
        for _ in range(MOST_TRIES):
            error, body = self.ask(39, ioctl_body(handle, command, data, out), thread)
            if error:
                return error, b""
            _result, flags, reads, writes = IOCTL_OUT.unpack_from(body)
            rest = body[IOCTL_OUT.size :]
            if not flags & RETRY:
                assert len(rest) <= out
                return 0, rest
            assert len(rest) == 16 * (reads + writes)
            iovecs = list(struct.iter_unpack("=QQ", rest))
            assert all(address == ADDRESS for address, _ in iovecs)
            there = memory() if callable(memory) else memory
            wanted = sum(size for _, size in iovecs[:reads])
            if wanted > len(there):
                return errno.EFAULT, b""
            data, out = there[:wanted], sum(size for _, size in iovecs[reads:])
        raise AssertionError(f"ioctl {command:#x} asks for ever")


class FakeCaller:
    """The calling process: its threads, and its file descriptors by number."""

    def __init__(self, thread: int) -> None:
        self.pid = thread - thread % 1000
        self.files: Mapping[int, int] = {}
        self.links: dict[int, str] = {}
        self.closed = False
        self._ended = os.eventfd(0, os.EFD_NONBLOCK)

    def is_caller(self, thread: int) -> bool:
        return thread - thread % 1000 == self.pid

    def fetch(self, fd: int, wanted: str) -> int:
        if fd not in self.files:
            raise IoctlError(errno.EBADF, f"file descriptor {fd} cannot be fetched")
        if self.links.get(fd, wanted) != wanted:
            raise IoctlError(errno.EINVAL, f"file descriptor {fd} is {self.links[fd]}, not {wanted}")
        return os.dup(self.files[fd])

    def end(self) -> None:
        os.eventfd_write(self._ended, 1)

    def fileno(self) -> int:
        return self._ended

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        os.close(self._ended)


class FakeFiles:
    """Every region lies in one file; those of 4711 bytes are private."""

    def __init__(self, _caller: Any, regions: Any) -> None:
        for region in regions:
            if region.bytes == 4711:
                raise IoctlError(errno.EFAULT, "private memory")
        self.regions = list(regions)
        fd = os.memfd_create("files")
        self.fds = [fd] * len(self.regions)
        self.identities = [(0, 1)] * len(self.regions)
        self._fd = fd

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
