"""The front-end half of a vhost-user connection, for the built-in guests. vhost-user, "Communication".

Sends what a front-end sends to start and stop a device, and checks that the back-end accepts it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from array import array
from enum import IntFlag
from pathlib import Path

from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.vhostuser.message import (
    HEADER,
    REPLY,
    VERSION,
    VERSION_MASK,
    MemoryTable,
    Payload,
    Request,
    VringFd,
    encode_request,
)

RETRY_SECONDS = 0.05
PROTOCOL_MQ = 1 << 0
REPLY_ACK = 1 << 3


class Feature(IntFlag):
    """Device features that the guests can use (virtio 1.2, sections 5.1.3 and 6), and vhost-user's own bit."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    GUEST_TSO4 = 1 << 7
    HOST_TSO4 = 1 << 11
    MRG_RXBUF = 1 << 15
    MQ = 1 << 22
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35


class GuestsError(Exception):
    """The guests cannot start, or their back-end failed. One line: the thing, the reason, the remedy."""


class FrontEnd:
    """One connection to a back-end. Owns the socket, nothing else."""

    def __init__(self, path: str, *, listen: bool = False, timeout: float = 10.0) -> None:
        self.path = path
        self.timeout = timeout
        self.features = Feature(0)
        self.queue_pairs = 1
        """The most queue pairs that the back-end serves."""
        self._acks = False
        self._socket: socket.socket | None = None
        self._listener = _listen(path) if listen else None

    def connect(self) -> None:
        """Connect, retrying while nobody listens there yet; in listen mode, wait for the back-end to connect."""
        self._socket = self._accept() if self._listener else self._dial()
        self._socket.settimeout(self.timeout)

    def reconnect(self) -> None:
        """The same with another back-end, after the last one ended."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._acks = False
        self.connect()

    def _dial(self) -> socket.socket:
        deadline = time.monotonic() + self.timeout
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(self.path)
                return sock
            except OSError as error:
                sock.close()
                if time.monotonic() >= deadline:
                    raise GuestsError(
                        f"{self.path}: no back-end answers ({error.strerror or error}); start it before its guests"
                    ) from error
            time.sleep(RETRY_SECONDS)

    def _accept(self) -> socket.socket:
        assert self._listener is not None
        self._listener.settimeout(self.timeout)
        try:
            return self._listener.accept()[0]
        except TimeoutError as error:
            raise GuestsError(
                f"{self.path}: no back-end connected in {self.timeout:g} s; start one as the client of this socket"
            ) from error

    @property
    def connected(self) -> bool:
        """Whether the back-end has not closed the connection."""
        if self._socket is None:
            return False
        poll = select.poll()
        poll.register(self._socket, 0)
        return not poll.poll(0)

    def negotiate(self, wish: Feature) -> Feature:
        """Negotiate features: those of `wish` that the back-end offers. Returns them.

        vhost-user, "Feature negotiation".
        """
        self._say(Request.SET_OWNER)
        offered = self._ask(Request.GET_FEATURES)
        self.features = Feature(offered & wish)
        if self.features & Feature.PROTOCOL_FEATURES:
            known = REPLY_ACK | (PROTOCOL_MQ if self.features & Feature.MQ else 0)
            mine = self._ask(Request.GET_PROTOCOL_FEATURES) & known
            self._say(Request.SET_PROTOCOL_FEATURES, U64(mine))
            self._acks = bool(mine & REPLY_ACK)
            if mine & PROTOCOL_MQ:
                self.queue_pairs = self._ask(Request.GET_QUEUE_NUM)
        self._do(Request.SET_FEATURES, U64(self.features))
        return self.features

    def share_memory(self, fd: int, region: SharedRegion) -> None:
        """Give the back-end the guest's memory."""
        self._do(Request.SET_MEM_TABLE, MemoryTable((region,)), [fd])

    def start_ring(
        self, index: int, size: int, addresses: tuple[int, int, int], kick_fd: int, call_fd: int, base: int = 0
    ) -> None:
        """Start a ring. addresses: of its descriptor, driver and device area, as user addresses."""
        desc, avail, used = addresses
        self._do(Request.SET_VRING_NUM, VringState(index, size))
        self._do(Request.SET_VRING_BASE, VringState(index, base))
        self._do(Request.SET_VRING_ADDR, VringAddr(index, 0, desc, used, avail, 0))
        self._do(Request.SET_VRING_CALL, VringFd(index, False), [call_fd])
        self._do(Request.SET_VRING_KICK, VringFd(index, False), [kick_fd])
        os.eventfd_write(kick_fd, 1)

    def enable_ring(self, index: int, on: bool = True) -> None:
        """Without PROTOCOL_FEATURES rings are enabled from the start."""
        if self.features & Feature.PROTOCOL_FEATURES:
            self._do(Request.SET_VRING_ENABLE, VringState(index, int(on)))

    def stop_ring(self, index: int) -> int:
        """Stop a ring. Returns the index of the buffer the back-end would have taken next."""
        self._say(Request.GET_VRING_BASE, VringState(index, 0))
        reply = self._reply(Request.GET_VRING_BASE)
        return VringState.decode(reply).num

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                Path(self.path).unlink()

    def _say(
        self, request: Request, payload: Payload | None = None, fds: list[int] | None = None, *, ack: bool = False
    ) -> None:
        """Send one request."""
        if self._socket is None:
            raise GuestsError(f"{self.path}: {request.name} without a connection")
        data = encode_request(request, payload, need_reply=ack)
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            n = self._socket.sendmsg([data], passed)
            self._socket.sendall(data[n:])
        except OSError as error:
            raise self._gone(request, error) from error

    def _do(self, request: Request, payload: Payload, fds: list[int] | None = None) -> None:
        """Send a request that has no reply of its own, and wait for the acknowledgement where one was negotiated."""
        self._say(request, payload, fds, ack=self._acks)
        if self._acks and (code := U64.decode(self._reply(request)).value):
            raise GuestsError(f"{self.path}: the back-end refused {request.name} ({code}); its log has the reason")

    def _ask(self, request: Request) -> int:
        self._say(request)
        return U64.decode(self._reply(request)).value

    def _reply(self, request: Request) -> bytes:
        """The payload of the answer to `request`."""
        kind, flags, size = HEADER.unpack(self._receive(request, HEADER.size))
        if kind != request or flags & VERSION_MASK != VERSION or not flags & REPLY or size != 8:
            raise GuestsError(
                f"{self.path}: the answer to {request.name} has type {kind}, flags {flags:#x} and {size} bytes; "
                "this is no vhost-user back-end, or a broken one"
            )
        return self._receive(request, size)

    def _receive(self, request: Request, n_bytes: int) -> bytes:
        assert self._socket is not None
        data = b""
        try:
            while len(data) < n_bytes:
                part = self._socket.recv(n_bytes - len(data))
                if not part:
                    raise GuestsError(f"{self.path}: the back-end hung up on {request.name}; its log has the reason")
                data += part
        except OSError as error:
            raise self._gone(request, error) from error
        return data

    def _gone(self, request: Request, error: OSError) -> GuestsError:
        timed_out = isinstance(error, TimeoutError)
        reason = f"nothing came in {self.timeout:g} s" if timed_out else str(error.strerror or error)
        return GuestsError(f"{self.path}: {request.name} failed: {reason}; see whether the back-end is still running")


def _listen(path: str) -> socket.socket:
    """A listening socket at a path that has no file, or a stale socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if Path(path).is_socket():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(path)
                raise GuestsError(f"{path}: somebody listens there already; stop it or choose another path")
            Path(path).unlink()
        sock.bind(path)
        sock.listen(1)
    except (OSError, GuestsError) as error:
        sock.close()
        if isinstance(error, GuestsError):
            raise
        raise GuestsError(f"{path}: cannot listen there ({error.strerror or error}); choose another path") from error
    return sock
