"""A front-end that is connected: its socket and its session, from the first byte to the last fd closed."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable

from fastvhost.frontend.errors import ProtocolError, SessionEndError
from fastvhost.frontend.memory import REAL_MEMORY, MemoryMaker
from fastvhost.frontend.narrative import Narrative
from fastvhost.frontend.port_face import PortFace
from fastvhost.vhostuser.session import Session
from fastvhost.vhostuser.transport import PeerGoneError, Transport

MESSAGES_PER_TURN = 32
"""Then kicks and the port's events have their turn, whatever storm of messages there is."""


class EndedError(Exception):
    """The connection is over. level: how the log says it."""

    def __init__(self, reason: str, level: int) -> None:
        super().__init__(reason)
        self.level = level


class Connection:
    """Driven by poll(): register() what to wait for, serve() what came. Both raise nothing but EndedError."""

    def __init__(
        self,
        sock: socket.socket,
        port: PortFace,
        narrative: Narrative,
        clock: Callable[[], float],
        memory: MemoryMaker = REAL_MEMORY,
    ) -> None:
        self._port = port
        self._narrative = narrative
        self.transport = Transport(sock, clock)
        self.session = Session(port, self.transport.send, narrative, memory)
        self.peer_pid = self.transport.peer_pid
        self._kicks: list[tuple[int, int]] = []
        port.set_link(True)
        narrative.connected(self.peer_pid)

    def register(self, poller: select.poll) -> None:
        # A front-end that does not read its replies is not read either.
        poller.register(self.transport, select.POLLOUT if self.transport.wants_write else select.POLLIN)
        self._kicks = self.session.rings.watched()
        for fd, _ in self._kicks:
            poller.register(fd, select.POLLIN)

    @property
    def hung_up(self) -> bool:
        """Whether the front-end has closed, seen now and not at the last poll()."""
        poller = select.poll()
        poller.register(self.transport, 0)
        return bool(poller.poll(0))

    def serve(self, ready: dict[int, int]) -> None:
        """Handle what poll() found. ready: its answer, as a dict."""
        try:
            if self._port.attention_fd in ready:
                self.session.attend()
            for fd, index in self._kicks:
                if fd in ready:
                    self.session.kicked(index)
            events = ready.get(self.transport.fileno(), 0)
            if events & select.POLLHUP:
                raise PeerGoneError("the front-end closed")
            if events:
                self._pump()
            self.transport.check_patience()
        except PeerGoneError as error:
            raise EndedError(str(error), logging.INFO) from error
        except (ProtocolError, SessionEndError) as error:
            raise EndedError(str(error), logging.WARNING) from error

    def _pump(self) -> None:
        self.transport.flush()
        for _ in range(MESSAGES_PER_TURN):
            if self.transport.wants_write:
                return
            message = self.transport.receive()
            if message is None:
                return
            self.session.handle(message)

    def close(self) -> None:
        """Stop the rings, give everything back, close. Whatever fails, the rest is still done."""
        try:
            self.transport.close()
        finally:
            try:
                self._port.set_link(False)
            finally:
                self.session.close()
