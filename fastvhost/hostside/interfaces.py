"""Network interfaces as the kernel shows them: the state of one, and a watch for changes of any. netdevice(7)."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import io
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_NAME_BYTES = 15
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFMTU: Final = 0x8921
SIOCSIFMTU: Final = 0x8922
SIOCGIFHWADDR: Final = 0x8927
SIOCGIFINDEX: Final = 0x8933
SIOCETHTOOL: Final = 0x8946
ETHTOOL_GDRVINFO: Final = 0x03
ETHTOOL_GLINK: Final = 0x0A
ETHTOOL_GCHANNELS: Final = 0x3C
DRIVER_INFO: Final = struct.Struct("I32s160x")
"""The command and the driver's name: struct ethtool_drvinfo."""
IFF_UP = 0x1
ARPHRD_ETHER = 1
FIGURES: Final = "/proc/thread-self/net/dev"
SENT_DROPPED = 11
"""The column of FIGURES with frames that the kernel dropped."""
SIOCGIFNAME: Final = 0x8910
RTMGRP_LINK = 1
RTM_DELLINK = 17
IFLA_NEW_NETNSID = 45
NLMSG, IFINFO, ATTRIBUTE = struct.Struct("IHHII"), struct.Struct("BxHiII"), struct.Struct("HH")
MOST_GONE: Final = 64
"""The most interfaces that are remembered as gone."""
MOST_FIGURES: Final = 1 << 20
"""The most bytes of FIGURES that are read: other users decide how many interfaces there are."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface at one moment."""

    name: str
    index: int
    """The kernel's number; an interface that is removed and made again gets another one."""
    up: bool
    carrier: bool
    """Whether it has a carrier: its other end (a cable, the other half of a veth, a port of the bridge) is there."""
    mtu: int
    mac: str
    ethernet: bool


def name_problem(name: str) -> str:
    """Why no interface can have this name; or an empty text."""
    if not name:
        return "no interface; write its name behind the colon"
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        return f"an interface's name has {MAX_NAME_BYTES} bytes at the most; choose a shorter one"
    if name in (".", "..") or any(c in "/:%" or c.isspace() or c == "\0" for c in name):
        return "not a name of an interface; use letters, digits, '-', '_' and '.'"
    return ""


def look(name: str, asking: socket.socket | None = None) -> Interface | None:
    """The interface of that name in the network namespace of this thread, or None where there is none.

    asking: a socket of that namespace to ask with; then no socket is opened. Raises OSError where the kernel does not
    tell, for example because no more files can be opened: then the interface may be there or not.
    """
    with contextlib.ExitStack() as stack:
        sock = asking or stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        try:
            (index,) = struct.unpack_from("i", _ask(sock, SIOCGIFINDEX, name), 16)
            (flags,) = struct.unpack_from("H", _ask(sock, SIOCGIFFLAGS, name), 16)
            (mtu,) = struct.unpack_from("i", _ask(sock, SIOCGIFMTU, name), 16)
            hardware = _ask(sock, SIOCGIFHWADDR, name)
            carrier = _has_carrier(sock, name)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                raise
            return None
    (family,) = struct.unpack_from("H", hardware, 16)
    mac = text_of_mac(hardware)
    return Interface(name, index, bool(flags & IFF_UP), carrier, mtu, mac, family == ARPHRD_ETHER)


def text_of_mac(answer: bytes) -> str:
    """The MAC address in the answer of SIOCGIFHWADDR, as text."""
    return ":".join(f"{byte:02x}" for byte in answer[18:24])


def dropped_by_kernel(name: str) -> int:
    """Frames that the host's stack sent to an interface and the kernel dropped, since it was made. proc_pid_net(5).

    In the network namespace of this thread. 0 where thousands of interfaces stand before it in the file. Raises
    OSError.
    """
    with Path(FIGURES).open("rb") as file:
        return _dropped(file.read(MOST_FIGURES), name)


def _dropped(figures: bytes, name: str) -> int:
    with contextlib.suppress(ValueError, IndexError):
        for line in figures.decode(errors="surrogateescape").splitlines():
            interface, colon, words = line.partition(":")
            if colon and interface.strip() == name:
                return int(words.split()[SENT_DROPPED])
    return 0


def driver(name: str) -> str:
    """The name of its driver: "tun" for taps. Empty where the kernel does not tell. ethtool(8), --driver."""
    answer = array.array("B", DRIVER_INFO.pack(ETHTOOL_GDRVINFO, b""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        _ethtool(sock, name, answer)
    name_of_driver: bytes = DRIVER_INFO.unpack(answer)[1]
    return name_of_driver.rstrip(b"\0").decode(errors="replace")


def set_mtu(name: str, mtu: int) -> None:
    """Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, SIOCSIFMTU, struct.pack("16si20x", os.fsencode(name), mtu))


def set_up(name: str) -> None:
    """Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        (flags,) = struct.unpack_from("H", _ask(sock, SIOCGIFFLAGS, name), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", os.fsencode(name), flags | IFF_UP))


def receive_queues(name: str) -> int:
    """The number of its receive queues; 1 where the driver does not tell. ethtool(8), --show-channels."""
    # struct ethtool_channels: cmd, the most of rx, tx, other and combined, then how many there are of each.
    channels = array.array("I", (ETHTOOL_GCHANNELS, *8 * (0,)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        _ethtool(sock, name, channels)
    return max(1, channels[5] + channels[8])


def _ask(sock: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(sock, request, struct.pack("16s24x", os.fsencode(name)))


def _has_carrier(sock: socket.socket, name: str) -> bool:
    """The carrier as it is now; IFF_RUNNING follows only within a second. True for an interface that cannot tell."""
    answer = array.array("I", [ETHTOOL_GLINK, 1])
    _ethtool(sock, name, answer)
    return bool(answer[1])


def _ethtool(sock: socket.socket, name: str, command: array.array[int]) -> None:
    """Have the driver fill in `command`. Where the driver does not answer, `command` is unchanged."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", os.fsencode(name), command.buffer_info()[0]))


def _kinds(attributes: bytes) -> Iterator[int]:
    """The types of the attributes of a message. netlink(7)."""
    while len(attributes) >= ATTRIBUTE.size:
        n_bytes, kind = ATTRIBUTE.unpack_from(attributes)
        if n_bytes < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF
        attributes = attributes[n_bytes + 3 & ~3 :]


class Watch:
    """A descriptor that is readable when an interface of the namespace changed.

    look() tells the new state without opening a file. It belongs to the network namespace of the thread that made it,
    whichever thread uses it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, RTMGRP_LINK))
            self._asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except BaseException:
            self._socket.close()
            raise
        self._gone: dict[int, bool] = {}
        """By index: whether it was moved to another namespace."""
        self._figures: io.FileIO | None = None
        with contextlib.suppress(OSError):
            self._figures = io.FileIO(FIGURES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def look(self, name: str) -> Interface | None:
        """The interface of that name, or None. Raises OSError where the kernel does not tell."""
        return look(name, self._asking)

    def was_moved(self, index: int, seconds: float = 0.0) -> bool:
        """Whether an interface that is gone was moved to another namespace.

        Waits up to `seconds` for the kernel to tell.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        deadline = time.monotonic() + seconds
        while index not in self._gone and (left := deadline - time.monotonic()) > 0:
            poller.poll(left * 1000)
            self.drain()
        return self._gone.get(index, False)

    def name_of(self, index: int) -> str:
        """The name of the interface with this index; empty where there is none."""
        with contextlib.suppress(OSError):
            answer = fcntl.ioctl(self._asking, SIOCGIFNAME, struct.pack("16xi20x", index))
            return os.fsdecode(answer[:16].partition(b"\0")[0])
        return ""

    def dropped_by_kernel(self, name: str) -> int:
        """Frames that the host's stack sent to an interface and the kernel dropped, since it was made.

        Raises OSError.
        """
        if self._figures is None:
            return 0
        self._figures.seek(0)
        return _dropped(self._figures.readall(), name)

    def drain(self) -> None:
        """Read the kernel's messages. It may have dropped some for want of room; that does no harm."""
        with contextlib.suppress(BlockingIOError):
            while True:
                with contextlib.suppress(InterruptedError):
                    try:
                        self._note(self._socket.recv(65536))
                    except OSError as error:
                        if isinstance(error, BlockingIOError):
                            raise

    def _note(self, messages: bytes) -> None:
        """Remember which interfaces are gone, and whether they were moved. rtnetlink(7)."""
        while len(messages) >= NLMSG.size:
            n_bytes, kind, *_ = NLMSG.unpack_from(messages)
            if not NLMSG.size + IFINFO.size <= n_bytes <= len(messages):
                return
            family, _, index, *_ = IFINFO.unpack_from(messages, NLMSG.size)
            attributes = messages[NLMSG.size + IFINFO.size : n_bytes]
            self._gone.pop(index, None)
            # With another family the message says that the interface left a bridge: it is still there.
            if kind == RTM_DELLINK and family == socket.AF_UNSPEC:
                self._gone[index] = IFLA_NEW_NETNSID in _kinds(attributes)
            if len(self._gone) > MOST_GONE:
                del self._gone[next(iter(self._gone))]
            messages = messages[n_bytes + 3 & ~3 :]

    def close(self) -> None:
        self._socket.close()
        self._asking.close()
        if self._figures is not None:
            self._figures.close()
