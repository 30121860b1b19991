"""Tap interfaces: made or attached to, one file descriptor a queue. Linux, Documentation/networking/tuntap.rst."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from fastvhost.hostside import interfaces
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.face import HostPortFace
from fastvhost.hostside.service import SHORT, InterfaceService

TUN: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOWNER: Final = 0x400454CC
TUNSETOFFLOAD: Final = 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x0100
RAISE: Final = "raise the limit: LimitNOFILE= in the unit, or ulimit -n"
IFREQ: Final = struct.Struct("16sH22x")
"""An interface's name and flags: struct ifreq, as TUNSETIFF takes it."""


class TapFace(HostPortFace, Protocol):
    """A tap port of the data plane."""

    def attach(self, fds: Sequence[int]) -> None: ...


class TapService(InterfaceService):
    """Makes the interface where it is missing, and brings one that it made up; one that was there keeps its state."""

    attaches_down = True

    def __init__(
        self,
        port: TapFace,
        interface: str,
        *,
        queues: int = 1,
        persist: bool = False,
        mtu: int | None = None,
        owner: int | None = None,
    ) -> None:
        super().__init__(port, interface)
        self._tap = port
        self._queues, self._persist, self._mtu, self._owner = queues, persist, mtu, owner
        self._fds: list[int] = []
        self._counted = 0

    def _attach(self) -> str:
        made = interfaces.look(self._name) is None
        for _ in range(self._queues):
            self._fds.append(self._open_queue())
        try:
            self._set_up(made)
        except OSError as error:
            raise self._refusal(error) from error
        self._counted = interfaces.dropped_by_kernel(self._name)
        self._tap.attach(self._fds)
        seen = interfaces.look(self._name)
        queues = f", {self._queues} queues" if self._queues > 1 else ""
        return f"{'made' if made else 'attached to'} tap {self._name}{queues}, MTU {seen.mtu if seen else '?'}"

    def _set_up(self, made: bool) -> None:
        fd = self._fds[0]
        # Until offloads can be matched per frame and egress, the stack shall hand over plain frames.
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        if made:
            fcntl.ioctl(fd, TUNSETOWNER, os.getuid() if self._owner is None else self._owner)
        if made and self._persist:
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
        if self._mtu is not None:
            interfaces.set_mtu(self._name, self._mtu)
        if made:
            interfaces.set_up(self._name)

    def _open_queue(self) -> int:
        try:
            fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in SHORT:
                raise HostPortError(f"{self._name}: cannot open {TUN}: {error.strerror}; {RAISE}") from error
            remedy = "modprobe tun" if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO) else f"chmod 666 {TUN}"
            raise HostPortError(f"{self._name}: cannot open {TUN}: {error.strerror}; as root: {remedy}") from error
        flags = IFF_TAP | IFF_NO_PI | (IFF_MULTI_QUEUE if self._queues > 1 else 0)
        try:
            fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(os.fsencode(self._name), flags))
        except OSError as error:
            os.close(fd)
            raise self._refusal(error) from error
        return fd

    def _refusal(self, error: OSError) -> HostPortError:
        name, user = self._name, os.getuid()
        many = " multi_queue" if self._queues > 1 else ""
        make = f"ip tuntap add dev {name} mode tap user {user}{many}"
        if error.errno == errno.EINVAL and interfaces.driver(name) != "tun":
            return HostPortError(f"tap {name}: it exists and is no tap interface; choose another name", "usage")
        said = {
            errno.EPERM: f"not permitted (CAP_NET_ADMIN); run as root, or let root make it for you: {make}",
            errno.EBUSY: "another process has it open; stop that one, or choose another name",
            errno.EINVAL: "it exists and is no tap interface of this many queues; choose another name, or as root: "
            f"ip link delete {name} && {make}",
        }
        reason = said.get(error.errno or 0, f"{error.strerror}; see ip link show {name}")
        return HostPortError(f"tap {name}: {reason}", "usage" if error.errno == errno.EINVAL else "os")

    def _kernel_drops(self) -> int:
        """A tap keeps as many frames as its txqueuelen says; what comes on top is gone."""
        dropped = interfaces.dropped_by_kernel(self._name)
        before, self._counted = self._counted, dropped
        return max(0, dropped - before)

    def _release(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
