"""Packet sockets: one with a ring for what arrives, two that send. packet(7); Linux, packet_mmap.rst.

Super-frames of UDP that the host's stack or a peer sends reach the ring since Linux 6.2. An earlier kernel drops them,
and counts them as it counts an overrun (kernel_overrun).
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import socket
import struct
from typing import Final, Protocol

from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.interfaces import Interface
from fastvhost.hostside.port_api import HostPortApi
from fastvhost.hostside.service import InterfaceService

SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 1, 5, 6, 10
PACKET_VNET_HDR, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 15, 20, 23
TPACKET_V3, PACKET_MR_PROMISC = 2, 1
ETH_P_ALL: Final = 3
# A block has room for the longest super-frame with all headers. The kernel hands it over when full, or after 1 ms.
BLOCK_BYTES: Final = 128 << 10
BLOCKS: Final = 32
RETIRE_MS: Final = 1
SEND_BYTES: Final = 4 << 20
UDP_SEGMENTS_SINCE: Final = (6, 2)
"""Linux. Earlier ones refuse super-frames of UDP."""


def takes_udp_segments(release: str = os.uname().release) -> bool:
    """Whether a kernel of this release takes super-frames of UDP from packet sockets: no call says so."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= UDP_SEGMENTS_SINCE


class PacketFace(HostPortApi, Protocol):
    """A packet port of the data plane."""

    def attach(
        self,
        ring: mmap.mmap,
        block_bytes: int,
        receive_fd: int,
        send_fd: int,
        queue_fd: int,
        *,
        udp_segments: bool = False,
    ) -> None: ...


class PacketService(InterfaceService):
    """Opens the sockets while the interface is up, and counts the frames that the kernel dropped."""

    def __init__(self, port: PacketFace, interface: str, *, netns: str = "") -> None:
        super().__init__(port, interface, netns)
        self._packet = port
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._queue_sender: socket.socket | None = None
        self._ring: mmap.mmap | None = None

    def _attach(self) -> str:
        seen = self._named()
        if seen is None:
            raise HostPortError(f"packet {self._name}: there is no such interface{self._where}")
        if not seen.ethernet:
            raise HostPortError(
                f"packet {self._name}: it carries no Ethernet frames; choose another interface", "usage"
            )
        try:
            self._inside(lambda: self._open(seen))
        except OSError as error:
            raise HostPortError(f"packet {self._name}: {_reason(error)}") from error
        assert self._ring is not None
        assert self._receiver is not None
        assert self._sender is not None
        assert self._queue_sender is not None
        fds = self._receiver.fileno(), self._sender.fileno(), self._queue_sender.fileno()
        self._packet.attach(self._ring, BLOCK_BYTES, *fds, udp_segments=takes_udp_segments())
        return f"packet socket on {self._name}{self._where}, MTU {seen.mtu}"

    def _open(self, seen: Interface) -> None:
        # Protocol 0: nothing arrives before bind.
        self._receiver = receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        receiver.setblocking(False)
        receiver.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        # Works with a ring since Linux 4.6, so on every kernel that knows PACKET_IGNORE_OUTGOING (4.20).
        receiver.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        receiver.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        ring = struct.pack("7I", BLOCK_BYTES, BLOCKS, BLOCK_BYTES, BLOCKS, RETIRE_MS, 0, 0)
        receiver.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)
        self._ring = mmap.mmap(receiver.fileno(), BLOCK_BYTES * BLOCKS)
        receiver.bind((self._name, ETH_P_ALL))
        receiver.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8x", seen.index, PACKET_MR_PROMISC, 0))
        self._sender = self._open_sender()
        self._sender.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._queue_sender = self._open_sender()

    def _open_sender(self) -> socket.socket:
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            sender.setblocking(False)
            sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            sender.bind((self._name, 0))
        except BaseException:
            sender.close()
            raise
        return sender

    def _release(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        for sock in (self._receiver, self._sender, self._queue_sender):
            if sock is not None:
                sock.close()
        self._receiver = self._sender = self._queue_sender = None

    def _kernel_drops(self) -> int:
        if self._receiver is None:
            return 0
        # Reading resets the kernel's counters to 0.
        _packets, drops, _freezes = struct.unpack("3I", self._receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))
        return int(drops)


def _reason(error: OSError) -> str:
    """The error with its remedy, in one line."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return "not permitted (CAP_NET_RAW); run as root, or with AmbientCapabilities=CAP_NET_RAW"
    if error.errno == errno.ENOMEM:
        return f"no {BLOCK_BYTES * BLOCKS >> 20} MiB for its ring; free memory"
    if error.errno == errno.EAFNOSUPPORT:
        return "no packet sockets are allowed here; allow AF_PACKET (systemd: RestrictAddressFamilies=)"
    return f"{error.strerror}; see packet(7)"
