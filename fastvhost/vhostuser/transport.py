"""One connection: bytes and file descriptors in, whole messages out. vhost-user, "Message Specification".

Nothing here waits: a message that arrives in pieces is put together over several calls of receive(), and a reply that
the front-end does not read yet stays queued. The transport owns each file descriptor from recvmsg on, until it returns
the message; the message owns it until a handler takes it.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

from fastvhost.backend import foreign_files
from fastvhost.backend.errors import ProtocolError
from fastvhost.vhostuser.message import HEADER, MAX_FDS, Header, decode_header, request_name

MAX_WAIT = 1.0
"""Seconds a message may stay half-sent, or a reply unread, before the front-end counts as gone."""

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class PeerGoneError(Exception):
    """The front-end closed the connection, or it broke."""


class Received:
    """A message as it arrived. Owns its file descriptors until take_fd()."""

    def __init__(self, header: Header, payload: bytes, fds: list[int]) -> None:
        self.header = header
        self.payload = payload
        self.fds = fds

    def take_fd(self) -> int:
        """The next file descriptor; the caller owns it from here on."""
        return self.fds.pop(0)

    def close(self) -> None:
        """Close the file descriptors that were not taken. Idempotent."""
        foreign_files.close_all(self.fds)


class Transport:
    """The back-end's end of a connected stream socket, which it owns."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        sock.setblocking(False)
        foreign_files.keep([sock.fileno()])
        self._sock = sock
        self._clock = clock
        self._header: Header | None = None
        self._data = bytearray()
        self._fds: list[int] = []
        self._out = bytearray()
        self._stuck_since: float | None = None

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def peer_pid(self) -> int:
        """The process that connected or listened (SO_PEERCRED), 0 when the kernel does not tell."""
        try:
            data = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return 0
        pid: int = _CREDENTIALS.unpack(data)[0]
        return pid

    @property
    def wants_write(self) -> bool:
        """Whether a reply waits for room in the socket. Until it is sent, no further request should be read."""
        return bool(self._out)

    @property
    def amid_message(self) -> bool:
        """Whether a part of a message has arrived."""
        return self._header is not None or bool(self._data)

    @property
    def deadline(self) -> float | None:
        """When check_stuck() will raise unless bytes are read or written before, on the clock."""
        return None if self._stuck_since is None else self._stuck_since + MAX_WAIT

    def check_stuck(self) -> None:
        """Raises ProtocolError when a half-sent message or an unread reply is older than MAX_WAIT."""
        deadline = self.deadline
        if deadline is None or self._clock() < deadline:
            return
        if self._out:
            raise ProtocolError("replies are not read")
        what = "a header" if self._header is None else request_name(self._header.request)
        raise ProtocolError(f"{what} was begun and not finished within {MAX_WAIT:g} s")

    def receive(self) -> Received | None:
        """The next message, or None while it is not complete. Raises PeerGoneError, MalformedError, ProtocolError."""
        while True:
            if self._header is None:
                if not self._fill(HEADER.size):
                    return None
                self._header = decode_header(bytes(self._data))
                self._data.clear()
            if not self._fill(self._header.size):
                return None
            message = Received(self._header, bytes(self._data), self._fds)
            self._header, self._fds, self._stuck_since = None, [], None
            self._data.clear()
            return message

    def _fill(self, wanted: int) -> bool:
        """Read until the buffer has `wanted` bytes. Returns whether it has. Never reads beyond this message."""
        while len(self._data) < wanted:
            try:
                data, arrived, lost = foreign_files.receive(self._sock, wanted - len(self._data))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise PeerGoneError(f"the connection broke: {error.strerror}") from error
            if arrived:
                self._fds += arrived
                foreign_files.check_room()
            if lost:
                raise ProtocolError("file descriptors were lost: there is no room here for so many (ulimit -n)")
            if len(self._fds) > MAX_FDS:
                raise ProtocolError(f"file descriptors were lost: more than {MAX_FDS} with one message are not taken")
            if not data:
                half = self._data or self._header is not None
                raise PeerGoneError("the front-end closed" + (" in the middle of a message" if half else ""))
            self._data += data
            if self._stuck_since is None:
                self._stuck_since = self._clock()
        return True

    def send(self, data: bytes) -> None:
        """Send a reply, or queue what the socket does not take now. Raises PeerGoneError."""
        self._out += data
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it. Raises PeerGoneError."""
        while self._out:
            try:
                sent = self._sock.send(self._out, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                if self._stuck_since is None:
                    self._stuck_since = self._clock()
                return
            except OSError as error:
                raise PeerGoneError(f"the front-end closed before its reply: {error.strerror}") from error
            del self._out[:sent]
        if self._header is None and not self._data:
            self._stuck_since = None

    def close(self) -> None:
        """Close the connection and all file descriptors that it owns. Idempotent."""
        foreign_files.close_all(self._fds)
        foreign_files.close_socket(self._sock)
