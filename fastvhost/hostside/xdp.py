"""Interfaces through AF_XDP: an XDP program and one socket a receive queue, while the interface is up. af_xdp.rst."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from fastvhost.dataplane.ports.xdp_socket import LONGEST, Redirect, XdpError, XdpSocket
from fastvhost.hostside import interfaces
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.interfaces import Interface
from fastvhost.hostside.port_api import HostPortApi
from fastvhost.hostside.service import InterfaceService

SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 1, 1
HEADER_BYTES: Final = 14 + 2 * 4
"""Ethernet, and two VLAN tags."""
LET_GO_SECONDS: Final = 1.0
"""Seconds to wait for a queue: the kernel frees it only some time after its program has ended."""


class XdpFace(HostPortApi, Protocol):
    """An xdp port of the data plane."""

    def attach(self, sockets: Sequence[XdpSocket], longest: int) -> None: ...
    def set_longest(self, frame_bytes: int) -> None: ...


class XdpService(InterfaceService):
    """Attaches program and sockets, follows the MTU, and counts the frames that the kernel dropped."""

    def __init__(self, port: XdpFace, interface: str, *, queues: int = 1, netns: str = "") -> None:
        super().__init__(port, interface, netns)
        self._xdp = port
        self._queues = queues
        self._redirect: Redirect | None = None
        self._sockets: list[XdpSocket] = []
        self._promiscuous: socket.socket | None = None
        self._counted = self._mtu = 0
        self._how: dict[str, Any] = {}

    def _attach(self) -> str:
        seen = self._named()
        if seen is None:
            raise HostPortError(f"xdp {self._name}: there is no such interface{self._where}")
        if not seen.ethernet:
            raise HostPortError(f"xdp {self._name}: it carries no Ethernet frames; choose another interface", "usage")
        there = self._inside(lambda: interfaces.receive_queues(self._name))
        if self._queues > there:
            raise HostPortError(
                f"xdp {self._name}: it has {there} of the {self._queues} receive queues; write queues={there}, or as "
                f"root: {self._prefix}ethtool -L {self._name} rx {self._queues} tx {self._queues}"
            )
        try:
            self._inside(lambda: self._open(seen))
        except XdpError as error:
            raise HostPortError(f"xdp {self._name}{self._where}: {advice(error, self._name, self._prefix)}") from error
        except OSError as error:
            raise HostPortError(f"xdp {self._name}: {error.strerror}; see packet(7)") from error
        self._counted, self._mtu = 0, seen.mtu
        self._xdp.attach(self._sockets, longest(seen.mtu))
        return self._tell(seen, there)

    def _tell(self, seen: Interface, there: int) -> str:
        assert self._redirect is not None
        mode = "native" if self._redirect.native else "generic"
        copy = "zero-copy" if all(one.zero_copy for one in self._sockets) else "copy"
        self._how = {"mode": mode, "frames": copy, "queues": self._queues, "receive_queues": there}
        said = f"AF_XDP on {self._name}{self._where}, {mode} mode, {copy}, MTU {seen.mtu}"
        if there > self._queues:
            said += (
                f"; only receive queue{'s 0 to' if self._queues > 1 else ''} {self._queues - 1} of {there}, frames of "
                f"the others go to this host: for all write queues={there}"
            )
        if longest(seen.mtu) < seen.mtu + HEADER_BYTES:
            said += f"; frames of more than {LONGEST} bytes do not fit: {self._prefix}ip link set {self._name} mtu 3500"
        if mode == "generic":
            said += "; the stack at the other end must send no super-frames: there, ethtool -K IFACE tso off gso off"
        return said

    def _open(self, seen: Interface) -> None:
        deadline = time.monotonic() + LET_GO_SECONDS
        while True:
            try:
                self._bind(seen)
                return
            except XdpError as error:
                self._release()
                if error.number != errno.EBUSY or time.monotonic() > deadline or self._rest(0.05):
                    raise

    def _bind(self, seen: Interface) -> None:
        # Until the program has sockets in its map, every frame passes to the host as before.
        self._redirect = redirect = Redirect(seen.index, self._queues)
        for queue in range(self._queues):
            self._sockets.append(XdpSocket(seen.index, queue, copy=not redirect.native))
        # Frames for the guest carry its address, not the interface's.
        self._promiscuous = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._promiscuous.setsockopt(
            SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8x", seen.index, PACKET_MR_PROMISC, 0)
        )
        for queue, one in enumerate(self._sockets):
            redirect.steer(queue, one)

    def _follow(self, seen: Interface, quiet: bool = False) -> None:
        super()._follow(seen, quiet)
        if seen.mtu != self._mtu:
            self._xdp.set_longest(longest(seen.mtu))
            self._mtu = seen.mtu

    def _release(self) -> None:
        self._how = {}
        if self._redirect is not None:
            self._redirect.close()
            self._redirect = None
        for one in self._sockets:
            one.close()
        self._sockets = []
        if self._promiscuous is not None:
            self._promiscuous.close()
            self._promiscuous = None

    def _kernel_drops(self) -> int:
        before, self._counted = self._counted, sum(one.dropped() for one in self._sockets)
        return max(0, self._counted - before)

    def describe(self) -> dict[str, Any]:
        return super().describe() | ({"xdp": self._how} if self._how else {})


def longest(mtu: int) -> int:
    """The longest frame at this MTU, in bytes, at most LONGEST."""
    return min(mtu + HEADER_BYTES, LONGEST)


def advice(error: XdpError, interface: str, prefix: str = "") -> str:
    """What the kernel refused, and the remedy, in one line. prefix: the words before commands."""
    step, number = error.step, error.number
    if number in (errno.EPERM, errno.EACCES):
        return "not permitted (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF); run as root, or with these AmbientCapabilities"
    if number == errno.ENOSYS:
        return f"this kernel has no bpf(2) (CONFIG_BPF_SYSCALL); use packet:{interface}"
    if (step, number) == ("socket", errno.EAFNOSUPPORT):
        return (
            "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS), or it is not allowed here (systemd: "
            f"RestrictAddressFamilies=AF_XDP); use packet:{interface}"
        )
    if (step, number) == ("map", errno.EINVAL):
        return f"this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); use packet:{interface}"
    if step in ("attach", "rings") and number in (errno.EINVAL, errno.ENOPROTOOPT):
        return f"this kernel's AF_XDP is too old, 5.9 is the first that will do; use packet:{interface}"
    if step == "attach" and number in (errno.EBUSY, errno.EEXIST):
        return (
            "another XDP program is attached; stop the program that did so (ip link show tells its id), or as root: "
            f"{prefix}ip link set {interface} xdp off"
        )
    if step == "bind" and number == errno.EBUSY:
        return "another AF_XDP socket has its queue; stop the program that opened it"
    if number in (errno.ENOMEM, errno.ENOBUFS):
        return "no memory that may be locked is left for its rings; raise the limit (ulimit -l), or free memory"
    if (step, number) == ("attach", errno.EOPNOTSUPP):
        return f"its driver runs no XDP programs; use packet:{interface}"
    words = {"bind": "binding a socket to its queue", "attach": "attaching the XDP program"}.get(step, f"AF_XDP {step}")
    return f"{words}: {os.strerror(number)}; use packet:{interface}"
