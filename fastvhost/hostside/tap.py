"""Tap interfaces: made or attached to, one file descriptor a queue. Linux, Documentation/networking/tuntap.rst.

The descriptors belong to the interface whatever its name and network namespace, so one that is renamed, or moved into a
container, goes on. By its descriptor the service finds out where it is.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import struct
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from fastvhost.hostside import interfaces, moved_tap
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.interfaces import Interface
from fastvhost.hostside.moved_tap import Away
from fastvhost.hostside.port_api import HostPortApi
from fastvhost.hostside.service import RETRY, SHORT, InterfaceService, details

TUN: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOWNER: Final = 0x400454CC
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETVNETLE: Final = 0x400454DC
IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE, IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
TCP_OFFLOADS: Final = 0x01 | 0x02 | 0x04 | 0x08
"""TUN_F_CSUM, TSO4, TSO6 and TSO_ECN: what the stack may leave to us."""
UDP_OFFLOADS: Final = 0x20 | 0x40
"""TUN_F_USO4 and USO6, since Linux 6.2."""
HEADER_BYTES: Final = struct.Struct("i").pack(12)
LITTLE_ENDIAN: Final = struct.Struct("i").pack(1)
RAISE: Final = "raise the limit: LimitNOFILE= in the unit, or ulimit -n"
IFREQ: Final = struct.Struct("16sH22x")
"""An interface's name and flags: struct ifreq, as TUNSETIFF takes it."""


class TapFace(HostPortApi, Protocol):
    """A tap port of the data plane."""

    def attach(self, fds: Sequence[int], *, udp_segments: bool = False) -> None: ...


class TapService(InterfaceService):
    """Makes the interface where it is missing, and then sets it up. An interface that was there keeps its state."""

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
        netns: str = "",
    ) -> None:
        super().__init__(port, interface, netns)
        self._tap = port
        self._queues, self._persist, self._mtu, self._owner = queues, persist, mtu, owner
        self._fds: list[int] = []
        self._udp_segments = False
        self._counted = 0
        self._called = interface
        """The name that it has now."""
        self._away: Away | None = None
        self._down_until = 0.0
        """For a tap in a namespace that cannot be entered: until when it counts as down, in time.monotonic()."""

    def _attach(self) -> str:
        made = self._inside(self._open)
        self._tap.attach(self._fds, udp_segments=self._udp_segments)
        seen = self._named()
        queues = f", {self._queues} queues" if self._queues > 1 else ""
        how = "made" if made else "attached to"
        return f"{how} tap {self._name}{self._where}{queues}, MTU {seen.mtu if seen else '?'}"

    def _open(self) -> bool:
        """Open all queues. Returns whether that made the interface."""
        made = interfaces.look(self._name) is None
        for _ in range(self._queues):
            self._fds.append(self._open_queue())
        try:
            self._set_up(made)
        except OSError as error:
            raise self._refusal(error) from error
        self._counted = interfaces.dropped_by_kernel(self._name)
        return made

    def _set_up(self, made: bool) -> None:
        fd = self._fds[0]
        self._udp_segments = True
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS | UDP_OFFLOADS)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS)
            self._udp_segments = False
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
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if self._queues > 1 else 0)
        try:
            fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(os.fsencode(self._name), flags))
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, HEADER_BYTES)
            fcntl.ioctl(fd, TUNSETVNETLE, LITTLE_ENDIAN)
        except OSError as error:
            os.close(fd)
            raise self._refusal(error) from error
        return fd

    def _refusal(self, error: OSError) -> HostPortError:
        name, user = self._name, os.getuid()
        many = " multi_queue" if self._queues > 1 else ""
        make = f"{self._prefix}ip tuntap add dev {name} mode tap user {user}{many}"
        if error.errno == errno.EINVAL and interfaces.driver(name) != "tun":
            return HostPortError(f"tap {name}: it exists and is no tap interface; choose another name", "usage")
        said = {
            errno.EPERM: f"not permitted (CAP_NET_ADMIN); run as root, or let root make it for you: {make}",
            errno.EBUSY: "another process has it open; stop that one, or choose another name",
            errno.EINVAL: "it exists and is no tap interface of this many queues; choose another name, or as root: "
            f"{self._prefix}ip link delete {name} && {make}",
        }
        reason = said.get(error.errno or 0, f"{error.strerror}; see {self._prefix}ip link show {name}")
        return HostPortError(f"tap {name}{self._where}: {reason}", "usage" if error.errno == errno.EINVAL else "os")

    def _kernel_drops(self) -> int:
        """How many frames the kernel dropped since the last call: those beyond the tap's txqueuelen."""
        if self._away is not None:
            dropped = self._away.dropped
        else:
            watch = self._watch
            dropped = self._counted if watch is None else watch.dropped_by_kernel(self._called)
        before, self._counted = self._counted, max(self._counted, dropped)
        return max(0, dropped - before)

    def _release(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._called, self._away, self._down_until = self._name, None, 0.0

    # Taps that were renamed or moved

    @property
    def _is_away(self) -> bool:
        return self._away is not None

    def _is_attached(self, _seen: Interface) -> bool:
        return True  # what _seen() returns was found by the tap's descriptor

    def _seen(self) -> Interface | None:
        if self._attached is None or not self._fds:
            return super()._seen()
        try:
            name = moved_tap.name(self._fds[0])
            at_home = self._named(name)
            away = moved_tap.look(self._fds[0], name, self._there.identity if self._there else None, at_home)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            return None  # it was removed, perhaps with its namespace
        self._tell(name, away)
        self._called, self._away = name, away
        if away is None:
            return at_home or self._attached  # it came back, or was renamed, between the two looks
        if away.seen is not None:
            return away.seen
        # Its state is not known here. It counts as up until a worker's call fails, and again after RETRY seconds.
        up = time.monotonic() >= self._down_until
        return Interface(name, 0, up, True, 0, away.mac, True)

    def _refused(self, number: int, now: float) -> bool:
        unseen = self._away is not None and self._away.seen is None
        if unseen and number == errno.EIO:
            self._down_until = now + RETRY
        return unseen

    def _tell(self, name: str, away: Away | None) -> None:
        """Log once that it was renamed or moved."""
        before = self._away.words if self._away else ""
        called = "" if name == self._called else f" and is called {name} now"
        if away is not None and away.words != before:
            self._say(f"{self._called} was moved to {away.words}{called}; this port goes on with it")
        elif away is None and before:
            self._say(f"{self._called} is back in its network namespace{called}; this port goes on with it")
        elif called:
            self._say(f"{self._called} was renamed{called}; this port goes on with it")

    @property
    def _label(self) -> str:
        return self._called if self._away is None else f"{self._called} in {self._away.words}"

    def _say_down(self) -> None:
        away = self._away
        if away is not None and away.seen is None:
            return  # its state is not known, so the user gets no advice
        prefix = away.prefix if away else self._prefix
        # The name may be chosen by another user there. It is quoted, since the operator may paste this command.
        remedy = f"{prefix}ip link set {shlex.quote(self._called)} up"
        self._say(f"{self._label} is down; bring it up with: {remedy}", logging.WARNING)

    def describe(self) -> dict[str, Any]:
        away, called = self._away, self._called
        if away is None and called == self._name:
            return super().describe()
        about = {"interface": self._name, "called": called, "state": self._said}
        about |= {"netns": away.label} if away else {"netns": str(self._wanted)} if self._wanted else {}
        seen = away.seen if away else self._named(called)
        return about | (details(seen) if seen else {})
