"""QEMU's half of vhost-user: a front-end for tests, written from the vhost-user specification.

Imports nothing of fastvhost. `Frontend` sends any message, legal or not, with any file descriptors, and reads replies.
`Guest` is a front-end that has set up a virtio-net device, with the driver of its queues: what most tests want.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from bench.guests.waits import MAX_WAIT
from tests.driver import NEAR_WRAP, Memory, NetDriver, Region, SplitQueue, Timeout

HEADER = struct.Struct("<III")  # request, flags, size
U64 = struct.Struct("<Q")
VRING_STATE = struct.Struct("<II")  # index, num
VRING_ADDR = struct.Struct("<IIQQQQ")  # index, flags, descriptor, used, available, log
REGION = struct.Struct("<QQQQ")  # guest address, size, user address, mmap offset

VERSION = 0x1
REPLY = 0x4
NEED_REPLY = 0x8
NO_FD = 1 << 8

NET_F_MTU = 1 << 3
NET_F_MRG_RXBUF = 1 << 15
VHOST_F_LOG_ALL = 1 << 26
RING_F_INDIRECT_DESC = 1 << 28
RING_F_EVENT_IDX = 1 << 29
F_PROTOCOL_FEATURES = 1 << 30
F_VERSION_1 = 1 << 32
F_RING_RESET = 1 << 40

PROTOCOL_F_MQ = 1 << 0
PROTOCOL_F_REPLY_ACK = 1 << 3
PROTOCOL_F_MTU = 1 << 4
PROTOCOL_F_CONFIG = 1 << 9
PROTOCOL_F_RESET_DEVICE = 1 << 13
PROTOCOL_F_CONFIGURE_MEM_SLOTS = 1 << 15
PROTOCOL_F_STATUS = 1 << 16

FEATURES = F_VERSION_1 | F_PROTOCOL_FEATURES | RING_F_INDIRECT_DESC
PROTOCOL_FEATURES = PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_CONFIGURE_MEM_SLOTS


class Request(IntEnum):
    """Front-end message types, as the specification numbers them."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


def request_name(request: int) -> str:
    return Request(request).name if request in set(Request) else f"request {request}"


class Reply(NamedTuple):
    request: int
    flags: int
    payload: bytes
    fds: list[int]


class Refused(Exception):
    """The back-end answered non-zero where an ack was asked for."""


class Closed(Exception):
    """The back-end closed the connection."""


class Frontend:
    """One connection to a back-end."""

    def __init__(self, sock: socket.socket, timeout: float = MAX_WAIT) -> None:
        self.sock = sock
        self.sock.settimeout(timeout)
        self.features = 0
        self.protocol_features = 0
        self.reply_ack = False

    @classmethod
    def connect(cls, path: str | Path, timeout: float = MAX_WAIT) -> Frontend:
        """Connect to a listening back-end. Waits for it to listen, no longer than the timeout."""
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            try:
                sock.connect(str(path))
                return cls(sock, timeout)
            except (ConnectionRefusedError, FileNotFoundError, BlockingIOError):
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    @classmethod
    def listen(cls, path: str | Path, timeout: float = MAX_WAIT) -> Frontend:
        """Listen, as QEMU with server=on does, and wait for a back-end in client mode."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(timeout)
            sock, _ = listener.accept()
        return cls(sock)

    def close(self) -> None:
        self.sock.close()

    # Messages

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes with any file descriptors."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], ancillary) if data else 0
            if sent < len(data):
                self.sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def send(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        need_reply: bool = False,
        flags: int | None = None,
        size: int | None = None,
    ) -> None:
        """Send one message. `flags` and `size` replace the right values of the header."""
        if flags is None:
            flags = VERSION | (NEED_REPLY if need_reply else 0)
        header = HEADER.pack(request, flags, len(payload) if size is None else size)
        self.send_raw(header + payload, fds)

    def receive(self) -> Reply:
        """One message from the back-end. Raises Closed, or TimeoutError."""
        header, fds = self._receive_exactly(HEADER.size)
        request, flags, size = HEADER.unpack(header)
        payload, more_fds = self._receive_exactly(size)
        return Reply(request, flags, payload, fds + more_fds)

    def _receive_exactly(self, n: int) -> tuple[bytes, list[int]]:
        data = b""
        fds: list[int] = []
        while len(data) < n:
            try:
                part, part_fds, _, _ = socket.recv_fds(self.sock, n - len(data), 16)
            except ConnectionResetError as error:
                raise Closed(str(error)) from error
            fds += part_fds
            if not part:
                raise Closed("end of file")
            data += part
        return data, fds

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """A request that always has a reply: the reply's payload."""
        self.send(request, payload, fds)
        reply = self.receive()
        if reply.request != request or reply.flags != VERSION | REPLY:
            raise AssertionError(f"asked {request}, got a reply to {reply.request} with flags {reply.flags:#x}")
        if reply.fds:
            raise AssertionError(f"the reply to {request} brings file descriptors")
        return reply.payload

    def ask_u64(self, request: int, payload: bytes = b"") -> int:
        value: int = U64.unpack(self.ask(request, payload))[0]
        return value

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A request without a reply of its own. With REPLY_ACK it asks for an ack; Refused when that is not 0."""
        if not self.reply_ack:
            return self.send(request, payload, fds)
        self.send(request, payload, fds, need_reply=True)
        reply = self.receive()
        if reply.request != request or reply.flags != VERSION | REPLY:
            raise AssertionError(f"told {request}, got a reply to {reply.request} with flags {reply.flags:#x}")
        if U64.unpack(reply.payload)[0]:
            raise Refused(f"{request_name(request)} answered {U64.unpack(reply.payload)[0]}")
        return None

    def wait_closed(self, timeout: float = MAX_WAIT) -> bool:
        """Whether the back-end closes the connection within the timeout. Replies on the way are thrown away."""
        deadline = time.monotonic() + timeout
        while readable(self.sock.fileno(), deadline - time.monotonic()):
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 65536, 16)
            except ConnectionResetError:
                return True
            for fd in fds:
                os.close(fd)
            if not data:
                return True
        return False

    # Steps of a handshake

    def negotiate(self, features: int = FEATURES, protocol_features: int = PROTOCOL_FEATURES) -> None:
        """Features first, as QEMU does. What the back-end does not offer is left out; see `features` afterwards."""
        offered = self.ask_u64(Request.GET_FEATURES)
        self.features = features & offered
        if self.features & F_PROTOCOL_FEATURES:
            self.protocol_features = protocol_features & self.ask_u64(Request.GET_PROTOCOL_FEATURES)
            self.send(Request.SET_PROTOCOL_FEATURES, U64.pack(self.protocol_features))
            self.reply_ack = bool(self.protocol_features & PROTOCOL_F_REPLY_ACK)
        self.tell(Request.SET_OWNER)
        self.tell(Request.SET_FEATURES, U64.pack(self.features))

    def set_mem_table(self, regions: Sequence[Region]) -> None:
        self.tell(Request.SET_MEM_TABLE, mem_table(regions), [region.fd for region in regions])

    def set_up_queue(
        self, index: int, queue: SplitQueue, *, kick: int = -1, call: int = -1, err: int = -1, enable: bool = True
    ) -> None:
        """NUM, BASE, ADDR, CALL, ERR, KICK and ENABLE of one queue; -1 for a file descriptor that is not given."""
        self.tell(Request.SET_VRING_NUM, VRING_STATE.pack(index, queue.size))
        self.tell(Request.SET_VRING_BASE, VRING_STATE.pack(index, queue.base))
        self.tell(Request.SET_VRING_ADDR, vring_addr(index, queue))
        for request, fd in (
            (Request.SET_VRING_CALL, call),
            (Request.SET_VRING_ERR, err),
            (Request.SET_VRING_KICK, kick),
        ):
            self.tell(request, *ring_fd(index, fd))
        if self.features & F_PROTOCOL_FEATURES:
            self.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, int(enable)))

    def get_vring_base(self, index: int) -> int:
        """Stop a queue; the next available index."""
        reply = VRING_STATE.unpack(self.ask(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0)))
        if reply[0] != index:
            raise AssertionError(f"GET_VRING_BASE of {index} answered for {reply[0]}")
        return int(reply[1])

    def handshake(
        self,
        memory: Memory,
        queues: Iterable[SplitQueue],
        *,
        features: int = FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        fds: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """All steps from a connected socket to running queues. `fds`: kick, call and err of each queue."""
        self.negotiate(features, protocol_features)
        self.set_mem_table(memory.regions)
        for index, queue in enumerate(queues):
            kick, call, err = fds[index] if fds else (-1, -1, -1)
            self.set_up_queue(index, queue, kick=kick, call=call, err=err)
        if not self.reply_ack:
            self.ask(Request.GET_FEATURES)  # when this one is answered, all before were handled


def mem_table(regions: Sequence[Region]) -> bytes:
    """SET_MEM_TABLE's payload."""
    return struct.pack("<II", len(regions), 0) + b"".join(mem_region(region) for region in regions)


def mem_region(region: Region) -> bytes:
    return REGION.pack(region.guest_addr, region.bytes, region.user_addr, region.mmap_offset)


def single_region(region: Region) -> bytes:
    """ADD_MEM_REG's and REM_MEM_REG's payload."""
    return U64.pack(0) + mem_region(region)


def vring_addr(index: int, queue: SplitQueue) -> bytes:
    """SET_VRING_ADDR's payload."""
    memory = queue.memory
    areas = (queue.descriptor_area, queue.device_area, queue.driver_area)
    return VRING_ADDR.pack(index, 0, *(memory.user_addr(area) for area in areas), 0)


def ring_fd(index: int, fd: int) -> tuple[bytes, list[int]]:
    """The payload and file descriptors of SET_VRING_KICK, CALL and ERR."""
    return (U64.pack(index), [fd]) if fd >= 0 else (U64.pack(index | NO_FD), [])


class Guest:
    """A front-end that has set up a virtio-net device with one queue pair, and the driver of its queues."""

    def __init__(
        self,
        frontend: Frontend,
        memory: Memory,
        receiveq: SplitQueue,
        transmitq: SplitQueue,
        *,
        features: int = FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        polled: bool = False,
    ) -> None:
        """`polled`: no kick eventfds, so that queues start with the handshake, not at their first kick."""
        self.frontend = frontend
        self.memory = memory
        self.queues = (receiveq, transmitq)
        self.polled = polled
        # For the device to read kick and write call and err, none of them ever blocking.
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.kicks, self.calls, self.errs = ([os.eventfd(0, flags) for _ in range(2)] for _ in range(3))
        fds = [self._fds(index) for index in range(2)]
        try:
            frontend.handshake(memory, self.queues, features=features, protocol_features=protocol_features, fds=fds)
        except BaseException:
            Guest.close(self)
            raise
        modern = frontend.features & (F_VERSION_1 | NET_F_MRG_RXBUF)
        self.net = NetDriver(
            receiveq,
            transmitq,
            header_bytes=12 if modern else 10,
            mergeable=bool(frontend.features & NET_F_MRG_RXBUF),
        )

    @classmethod
    def boot(
        cls,
        path: str | Path,
        *,
        features: int = FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        queue_size: int = 256,
        memory: Memory | None = None,
        memory_bytes: int = 4 << 20,
        start: int = NEAR_WRAP,
        receive_buffers: int = 0,
        name: str = "guest",
        timeout: float = MAX_WAIT,
    ) -> Guest:
        """Connect, set everything up, post receive buffers and kick both queues."""
        memory = memory or Memory.of(memory_bytes, name=name)
        try:
            receiveq, transmitq = (SplitQueue(memory, queue_size, start=start) for _ in range(2))
            frontend = Frontend.connect(path, timeout)
        except BaseException:
            memory.close()
            raise
        guest = cls(frontend, memory, receiveq, transmitq, features=features, protocol_features=protocol_features)
        guest.net.post(receive_buffers)
        guest.kick()
        return guest

    @property
    def receiveq(self) -> SplitQueue:
        return self.queues[0]

    @property
    def transmitq(self) -> SplitQueue:
        return self.queues[1]

    def kick(self) -> None:
        for fd in self.kicks:
            os.eventfd_write(fd, 1)

    def restart_queue(self, index: int, start: int | None = None) -> None:
        """Stop a queue and set it up anew, empty. By default it goes on where the device stopped."""
        base = self.frontend.get_vring_base(index)
        self.queues[index].reset(base if start is None else start)
        kick, call, err = self._fds(index)
        self.frontend.set_up_queue(index, self.queues[index], kick=kick, call=call, err=err)
        os.eventfd_write(self.kicks[index], 1)

    def _fds(self, index: int) -> tuple[int, int, int]:
        return -1 if self.polled else self.kicks[index], self.calls[index], self.errs[index]

    def close(self) -> None:
        """Disconnect and forget the memory. Idempotent."""
        self.frontend.close()
        self.memory.close()
        for fd in (*self.kicks, *self.calls, *self.errs):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.kicks, self.calls, self.errs = [], [], []

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def readable(fd: int, timeout: float) -> bool:
    """Whether there is something to read within the timeout. With poll: select ends at number 1023."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout) * 1000))


def wait_eventfd(fd: int, timeout: float = MAX_WAIT) -> int:
    """Wait for a notification and take it. Raises Timeout."""
    if not readable(fd, timeout):
        raise Timeout(f"no notification within {timeout} s")
    return os.eventfd_read(fd)
