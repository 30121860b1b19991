"""A session on a real socket pair, served step by step in the test's own thread; its port only records calls."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from bench.guests.waits import MAX_WAIT
from fastvhost.backend import advice, features
from fastvhost.backend.changes import Changes
from fastvhost.backend.memory import MemoryMaker
from fastvhost.backend.narrative import Narrative
from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.backend.session_state import SessionContext
from fastvhost.vhostuser import net_config, protocol_features
from fastvhost.vhostuser.connection import Connection, EndedError
from fastvhost.vhostuser.message import HEADER, MemoryTable, Payload, Request, SingleRegion, VringFd, encode_request
from fastvhost.vhostuser.offer import Offer
from tests.unit.fake_port import FAKE_MEMORY, FakePort

REGION = SharedRegion(0x1000_0000, 1 << 20, 0x7000_0000_0000, 0)
OTHER_REGION = SharedRegion(0x2000_0000, 1 << 20, 0x7100_0000_0000, 0)
MODERN = features.mask(features.F_VERSION_1, protocol_features.F_PROTOCOL_FEATURES)
LEGACY = features.mask(features.NET_F_MRG_RXBUF)
REPLY_ACK = features.mask(protocol_features.PROTOCOL_F_REPLY_ACK)


def open_fds() -> list[str]:
    """The open files of the process, by number and target, except the one that the first mapping opens for good."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one this list is read through
            found.append(f"{fd.name} {fd.readlink()}")
    return sorted(line for line in found if "/memfd:fastvhost-lost" not in line)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """ended: why the session ended the connection, empty as long as it did not."""

    def __init__(
        self,
        queue_pairs: int = 1,
        memory: MemoryMaker = FAKE_MEMORY,
        without: int = 0,
        device: net_config.DeviceSettings = net_config.PLAIN,
    ) -> None:
        self.port = FakePort(queue_pairs=queue_pairs)
        self.clock = Clock()
        self.changes = Changes(self.port, self.clock)
        self.narrative = Narrative(advice.by_listening("/tmp/bench.sock", "mode 0660"), self.clock)
        self.peer, ours = socket.socketpair()
        self.peer.settimeout(MAX_WAIT)
        offer = Offer(queue_pairs, without, device=device)
        context = SessionContext(self.port, self.changes, self.narrative, memory)
        self.connection = Connection(ours, context, offer, clock=self.clock)
        self.ended = ""
        self._fds: list[int] = []

    @property
    def session(self):  # type: ignore[no-untyped-def]
        return self.connection.session

    def close(self) -> None:
        self.connection.close()
        self.changes.settle()
        self.peer.close()
        self.port.close()
        for fd in self._fds:
            os.close(fd)

    def eventfd(self, flags: int = os.EFD_NONBLOCK, value: int = 0) -> int:
        fd = os.eventfd(value, flags)
        self._fds.append(fd)
        return fd

    def memfd(self, size: int = 1 << 20) -> int:
        fd = os.memfd_create("bench")
        os.ftruncate(fd, size)
        self._fds.append(fd)
        return fd

    def serve(self) -> None:
        """Let the session handle all messages."""
        while not self.ended:
            poller = select.poll()
            poller.register(self.port.attention_fd, select.POLLIN)
            self.connection.register(poller)
            ready = dict(poller.poll(0))
            if not ready:
                return
            try:
                self.connection.serve(ready)
            except EndedError as end:
                self.ended = str(end)

    def send(
        self, request: int, payload: Payload | bytes = b"", fds: Sequence[int] = (), *, need_reply: bool = False
    ) -> None:
        """One request, and let it be handled."""
        data = encode_request(request, need_reply=need_reply)
        body = payload if isinstance(payload, bytes) else payload.encode()
        data = HEADER.pack(request, HEADER.unpack(data)[1], len(body)) + body
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.peer.sendmsg([data], ancillary) == len(data)
        self.serve()

    def reply(self) -> tuple[int, int, bytes] | None:
        """(request, flags, payload) of the next reply, None when there is none."""
        self.peer.setblocking(False)
        try:
            header = self.peer.recv(12)
        except BlockingIOError:
            return None
        request, flags, size = HEADER.unpack(header)
        return request, flags, self.peer.recv(size) if size else b""

    def ask(self, request: int, payload: Payload | bytes = b"", *, need_reply: bool = False) -> bytes:
        """A request with a reply of its own, and no second one."""
        self.send(request, payload, need_reply=need_reply)
        reply = self.reply()
        assert reply is not None, self.ended
        assert reply[:2] == (request, 5)
        assert self.reply() is None
        return reply[2]

    def ask_u64(self, request: int) -> int:
        return U64.decode(self.ask(request)).value

    def ack(self, request: int, payload: Payload | bytes = b"", fds: Sequence[int] = ()) -> int:
        """The acknowledgement of a request."""
        self.send(request, payload, fds, need_reply=True)
        reply = self.reply()
        assert reply is not None, self.ended or "no ack"
        assert reply[:2] == (request, 5)
        assert self.reply() is None
        (value,) = struct.unpack("=Q", reply[2])
        return int(value)

    # Steps

    def negotiate(self, bits: int = MODERN, protocol: int = REPLY_ACK) -> None:
        if features.has(bits, protocol_features.F_PROTOCOL_FEATURES):
            self.send(Request.SET_PROTOCOL_FEATURES, U64(protocol))
        self.send(Request.SET_OWNER)
        self.send(Request.SET_FEATURES, U64(bits))

    def share(self, *regions: SharedRegion) -> None:
        regions = regions or (REGION,)
        self.send(Request.SET_MEM_TABLE, MemoryTable(regions), [self.memfd() for _ in regions])

    def addresses(self, index: int, flags: int = 0) -> VringAddr:
        start = REGION.user_addr + index * 0x10000
        return VringAddr(index, flags, start, start + 0x8000, start + 0x4000, 0)

    def configure(self, index: int, size: int = 256, base: int = 0) -> None:
        self.send(Request.SET_VRING_NUM, VringState(index, size))
        self.send(Request.SET_VRING_BASE, VringState(index, base))
        self.send(Request.SET_VRING_ADDR, self.addresses(index))

    def kick_with(self, index: int, fd: int = -1) -> None:
        self.send(Request.SET_VRING_KICK, VringFd(index, fd < 0), [fd] if fd >= 0 else [])

    def run(self, index: int = 0, base: int = 0) -> int:
        """Everything up to a live, enabled ring that was kicked. Returns the kick file descriptor."""
        if self.session.features is None:
            self.negotiate()
        if not self.session.memory.regions:
            self.share()
        self.configure(index, base=base)
        kick = self.eventfd()
        self.kick_with(index, kick)
        self.send(Request.SET_VRING_ENABLE, VringState(index, 1))
        os.eventfd_write(kick, 1)
        self.serve()
        assert not self.ended
        return kick


def single(region: SharedRegion) -> SingleRegion:
    return SingleRegion(region)
