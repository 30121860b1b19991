"""The control side of a cuse: port: a device file like vhost-net's, and one front-end at a time."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from fastvhost.backend.advice import Approach
from fastvhost.backend.control_thread import ControlThread
from fastvhost.backend.description import describe
from fastvhost.backend.errors import ServiceError
from fastvhost.backend.logbook import Line
from fastvhost.backend.memory import REAL_MEMORY
from fastvhost.backend.narrative import Narrative, View
from fastvhost.backend.port_api import PortApi
from fastvhost.vhostcuse.device import CuseDevice
from fastvhost.vhostcuse.dispatch import Dispatcher
from fastvhost.vhostcuse.guest_files import GuestFiles
from fastvhost.vhostcuse.message import MalformedRequestError, decode_request, encode_error
from fastvhost.vhostcuse.session import Surroundings

__all__ = ["VhostCuseService"]

REQUESTS_PER_TURN = 32
"""Requests handled before kicks and the port's events are looked at again."""
RETRY = 1.0
"""Seconds until a device that was taken away is made anew."""


class AnyCuseDevice(Protocol):
    """CuseDevice, or a test's fake."""

    def fileno(self) -> int: ...
    def read(self) -> bytes | None: ...
    def write(self, answer: bytes) -> None: ...
    def close(self) -> None: ...


def _approach(name: str, permissions: str) -> Approach:
    nobody = (
        f"nobody opens /dev/{name}; a guest needs, after exec 5<>/dev/{name} in its shell, "
        "QEMU -netdev tap,id=n0,vnet_hdr=off,script=no,downscript=no,vhost=on,vhostfd=5 "
        f"-device virtio-net-pci,netdev=n0, and its user read and write permission ({permissions})"
    )
    return Approach("listening", f"listening on /dev/{name}", lambda _: nobody)


class VhostCuseService(ControlThread):
    """Serves /dev/NAME: a process that opens it drives the port."""

    def __init__(
        self,
        name: str,
        port: PortApi,
        *,
        device_mode: int = 0o660,
        device_group: str | None = None,
        device: Callable[[str, int, str | None], AnyCuseDevice] = CuseDevice,
        most_memory: int = 0,
        any_memory_file: bool = False,
        dispatcher: Callable[..., Dispatcher] = Dispatcher,
    ) -> None:
        """most_memory: the most bytes of a guest that are mapped; 0: as many as this machine has."""
        group = f", group {device_group}" if device_group else ""
        super().__init__(port, Narrative(_approach(name, f"mode {device_mode:04o}{group}")))
        self._name = name
        self._permissions = (device_mode, device_group)
        self._make_device = device
        self._device: AnyCuseDevice | None = None
        self._again_at: float | None = None
        memory = REAL_MEMORY._replace(most_bytes=most_memory, any_file=any_memory_file)
        host = Surroundings(partial(GuestFiles, any_file=any_memory_file))
        self._dispatcher = dispatcher(port, self._narrative, memory=memory, host=host)
        self._dispatcher.changes = self._changes
        self._kicks: list[tuple[int, int]] = []

    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells. From any thread."""
        about: dict[str, Any] = {
            "device": f"/dev/{self._name}",
            "queue_pairs": self._port.queue_pairs,
            "state": self._narrative.state,
        }
        session = self._dispatcher.session
        if seconds := self._back_off.seconds_left:
            about["refused_for_seconds"] = round(seconds, 1)
        if session is None:
            return about | {"peer_pid": None}
        return about | describe(session, session.caller.pid, self._port, 2 * self._port.queue_pairs)

    def _take(self) -> None:
        self._device = self._make_device(self._name, *self._permissions)

    def _register(self, poller: select.poll, now: float) -> Iterable[float | None]:
        if self._again_at is not None and now >= self._again_at:
            self._take_again(now)
        # Read once: if a second read found that requests are allowed now, nothing would wake us for those that wait.
        allowed_at = self._allowed_at
        if self._device is not None:
            reads = self._changes.settled and allowed_at is None
            poller.register(self._device.fileno(), select.POLLIN if reads else 0)
        self._kicks = []
        session = self._dispatcher.session
        if session is not None:
            poller.register(session.caller.fileno(), select.POLLIN)
            self._kicks = session.rings.watched() if self._changes.settled else []
            for fd, _ in self._kicks:
                poller.register(fd, select.POLLIN)
        return (self._again_at, allowed_at)

    def _take_again(self, now: float) -> None:
        try:
            self._take()
        except ServiceError as error:
            self._narrative.refused(str(error))
            self._again_at = now + RETRY
        else:
            self._again_at = None
            self._narrative.waiting()

    def _serve(self, ready: dict[int, int]) -> None:
        session = self._dispatcher.session
        if self._port.attention_fd in ready:
            self._dispatcher.look()
        if session is not None and session is self._dispatcher.session:
            for fd, index in self._kicks:
                if fd in ready:
                    session.kicked(index)
            if session.caller.fileno() in ready:
                # Its files may still be open in another process, which could become the owner.
                self._drop("the front-end ended")
        if self._device is not None and self._device.fileno() in ready:
            self._pump(self._device)

    def _pump(self, device: AnyCuseDevice) -> None:
        for _ in range(REQUESTS_PER_TURN):
            if not self._may_read:
                return
            data = None
            with self._watching(device):
                data = device.read()
                if data is not None:
                    self._changes.count_message()
                    self._answer(device, data)
            if data is None:
                return

    @property
    def _may_read(self) -> bool:
        """Whether to read requests: not while a change waits, the share is used up, or front-ends are refused."""
        return self._changes.settled and self._allowed_at is None

    @property
    def _allowed_at(self) -> float | None:
        """When requests are read again, None for now. Until then the caller waits in the kernel."""
        times = (self._changes.allowed_at, self._back_off.ends_at)
        return max((time for time in times if time is not None), default=None)

    @contextlib.contextmanager
    def _watching(self, device: AnyCuseDevice) -> Iterator[None]:
        """Notice in this block that the device is gone."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._lose(device)

    def _settle(self) -> None:
        if self._device is None:
            super()._settle()
        else:
            with self._watching(self._device):
                super()._settle()

    def _answer(self, device: AnyCuseDevice, data: bytes) -> None:
        try:
            self._dispatcher.answer(data, device.write)
        except MalformedRequestError as error:
            self._narrative.refused(f"the kernel sent {error}")
        except OSError:
            raise
        except Exception:
            # An internal error; the caller must get an answer all the same.
            device.write(encode_error(decode_request(data).unique, errno.EIO))
            raise

    def _lose(self, device: AnyCuseDevice) -> None:
        """The device was taken away (/sys/fs/fuse/connections/N/abort, or the module unloaded)."""
        self._drop(f"/dev/{self._name} is gone, somebody aborted it", logging.ERROR)
        self._device = None
        device.close()
        self._dispatcher.forget()
        self._again_at = time.monotonic() + RETRY

    def _view(self) -> View:
        assert self._dispatcher.session is not None
        return self._dispatcher.session.view()

    def _drop(self, reason: str, level: int = logging.INFO) -> None:
        if self._dispatcher.session is None:
            if not self._stopping:
                self._logbook.write(Line(level, reason, "defects"))
            return
        with contextlib.suppress(Exception):
            self._dispatcher.session.attend()
        self._dispatcher.drop(reason, level, stopping=self._stopping)

    def _let_go(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()
