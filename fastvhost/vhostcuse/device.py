"""The character device: /dev/cuse, and the device file that the kernel makes for whoever opens that."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from fastvhost.backend.errors import ServiceError
from fastvhost.sockets.group import number_of
from fastvhost.vhostcuse import message
from fastvhost.vhostcuse.message import MalformedRequestError, Opcode

CUSE = "/dev/cuse"
MAX_WAIT = 2.0
"""Seconds that the kernel may take to make the device."""
MISC_MAJOR = 10
"""The major number of vhost-net's own device, by which DPDK's virtio-user recognises a kernel's vhost."""
FIRST_MINOR, MINORS_TRIED = 1024, 3
"""Before Linux 6.11 the kernel's own devices of that major have minor numbers up to 255."""
NO_CUSE = f"{CUSE} is not there; load its module (modprobe cuse), or use a kernel that has it (CONFIG_CUSE)"


class _TakenError(OSError):
    """Another device has these numbers."""


class CuseDevice:
    """The file that front-ends open. Raises ServiceError, one sentence. mode, group: of that file."""

    def __init__(
        self,
        name: str,
        mode: int,
        group: str | None,
        *,
        directory: str = "/dev",
        opened: Callable[[str, int], int] = os.open,
    ) -> None:
        self.path = Path(directory) / name
        gid = number_of(group)
        if self.path.exists():
            raise ServiceError(f"{self.path}: exists already; choose another name, or stop what serves it")
        self._opened = opened
        self._fd = -1
        try:
            self._make(name)
            # Neither of these opens the device: that would wait for an answer from this very thread.
            self.path.chmod(mode)
            if gid is not None:
                os.chown(self.path, -1, gid)
        except (OSError, MalformedRequestError) as error:
            self.close()
            raise ServiceError(f"{self.path}: cannot be made: {error}", "os") from error
        except BaseException:
            self.close()
            raise

    def _make(self, name: str) -> None:
        for minor in _free_minors():
            with contextlib.suppress(_TakenError):
                self._introduce(name, MISC_MAJOR, minor)
                return
        # Newer kernels use all minor numbers of that major. QEMU takes any device; DPDK's virtio-user does not.
        self._introduce(name, 0, 0)

    def _introduce(self, name: str, major: int, minor: int) -> None:
        """The handshake: the kernel's first request asks for the name and numbers of the device."""
        self.close()
        try:
            self._fd = self._opened(CUSE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ServiceError(NO_CUSE, "os") from None
        except OSError as error:
            remedy = f"run fwd as root, or give its user {CUSE}"
            raise ServiceError(f"{CUSE}: {error.strerror}; {remedy}", "os") from error
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(MAX_WAIT * 1000):
            raise OSError(errno.ETIMEDOUT, f"{CUSE} does not answer")
        request = message.decode_request(os.read(self._fd, message.READ_BYTES))
        if request.opcode != Opcode.CUSE_INIT:
            raise MalformedRequestError(f"the first request is {request.opcode}, not {Opcode.CUSE_INIT}")
        message.decode_init(request.body)
        os.write(self._fd, message.encode_init(request.unique, name, major, minor))
        deadline = time.monotonic() + MAX_WAIT
        while not self.path.exists():
            if any(events & select.POLLERR for _, events in poller.poll(0)):
                raise _TakenError(errno.EBUSY, f"the kernel takes no such device ({major}:{minor}), see dmesg")
            if time.monotonic() > deadline:
                raise OSError(errno.ENODEV, "the kernel made no such device, see dmesg")
            time.sleep(0.01)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes | None:
        """The next request, None when there is none. Raises OSError (ENODEV) when the device is gone."""
        try:
            return os.read(self._fd, message.READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno == errno.ENOENT:  # its caller was interrupted before it was read
                return None
            raise

    def write(self, answer: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):  # its caller no longer waits for the answer
            os.write(self._fd, answer)

    def close(self) -> None:
        """Remove the device; programs that have it open get errors. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _free_minors() -> list[int]:
    taken = {path.name for path in Path("/sys/dev/char").glob(f"{MISC_MAJOR}:*")}
    candidates = range(FIRST_MINOR, FIRST_MINOR + len(taken) + MINORS_TRIED)
    return [minor for minor in candidates if f"{MISC_MAJOR}:{minor}" not in taken][:MINORS_TRIED]
