"""A front-end that is connected: its socket and its session, from the first byte to the last fd closed."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator

from fastvhost.backend.errors import ProtocolError, SessionEndError
from fastvhost.backend.features import names
from fastvhost.backend.session_state import SessionContext
from fastvhost.vhostuser.offer import WITHDRAWN, Offer
from fastvhost.vhostuser.session import Session, Terms
from fastvhost.vhostuser.transport import PeerGoneError, Transport

MESSAGES_PER_TURN = 32
"""Messages handled before kicks and the port's events are looked at again."""


class EndedError(Exception):
    """The connection is over. level: how the log says it."""

    def __init__(self, reason: str, level: int) -> None:
        super().__init__(reason)
        self.level = level


@contextlib.contextmanager
def _ends() -> Iterator[None]:
    """Turn each exception that ends a connection into EndedError."""
    try:
        yield
    except PeerGoneError as error:
        raise EndedError(str(error), logging.INFO) from error
    except (ProtocolError, SessionEndError) as error:
        raise EndedError(str(error), logging.WARNING) from error


class Connection:
    """Driven by poll(): register() before it, serve() after it. Both raise nothing but EndedError."""

    def __init__(
        self,
        sock: socket.socket,
        context: SessionContext,
        offer: Offer,
        pairs: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """pairs: the number of queue pairs that the driver is told of; 0 for all that the port has."""
        self._port, self._changes, narrative, _ = context
        self.transport = Transport(sock, clock)
        self.peer_pid = self.transport.peer_pid

        def chosen(bits: int) -> None:
            offer.chosen(bits, self.peer_pid)
            if kept := names(bits & WITHDRAWN):
                narrative.keeps(kept)

        terms = Terms(offer.to(self.peer_pid), chosen, offer.met, pairs, offer.device)
        self.session = Session(context, self.transport.send, terms)
        self._kicks: list[tuple[int, int]] = []
        self._control_fd = -1
        self._reads_at: float | None = None
        narrative.connected(self.peer_pid)

    def register(self, poller: select.poll) -> None:
        # Read once, here: a second reading, in `deadline`, might find the share there, and then nothing would wake us.
        self._reads_at = self._may_read_at
        poller.register(self.transport, self._awaited)
        self._kicks = self.session.rings.watched() if self._changes.settled else []
        for fd, _ in self._kicks:
            poller.register(fd, select.POLLIN)
        self._control_fd = self.session.control.kicks_fd if self._may_serve_control else -1
        if self._control_fd >= 0:
            poller.register(self._control_fd, select.POLLIN)

    @property
    def _may_serve_control(self) -> bool:
        """Commands of the control queue count as messages, too."""
        return self._changes.settled and self._changes.allowed_at is None

    @property
    def _awaited(self) -> int:
        """The poll() events to wait for on its socket. That it hung up is reported in any case."""
        if not self._changes.settled:
            return 0
        if self.transport.wants_write:
            return select.POLLOUT  # a front-end that does not read its replies is not read either
        return select.POLLIN if self._reads_at is None else 0

    @property
    def _may_read_at(self) -> float | None:
        """When the next message may be read, None for now. The rest of a message that has begun is read at once."""
        return None if self.transport.amid_message else self._changes.allowed_at

    @property
    def deadline(self) -> float | None:
        """When to call serve() without an event, as of the last register()."""
        control = self.session.control
        served_at = self._changes.allowed_at if control.kicks_fd >= 0 else None
        if control.more and self._may_serve_control:
            served_at = 0.0
        times = (self._reads_at, self.transport.deadline, served_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def hung_up(self) -> bool:
        """Whether the front-end has closed its socket by now, not only at the last poll()."""
        poller = select.poll()
        poller.register(self.transport, 0)
        return bool(poller.poll(0))

    def serve(self, ready: dict[int, int]) -> None:
        """Handle events. ready: what poll() returned, as a dict."""
        with _ends():
            if self._port.attention_fd in ready:
                self.session.attend()
            for fd, index in self._kicks:
                if fd in ready:
                    self.session.kicked(index)
            if (self._control_fd in ready or self.session.control.more) and self._may_serve_control:
                self.session.serve_control()
            of_socket = ready.get(self.transport.fileno(), 0)
            if of_socket & select.POLLHUP:
                raise PeerGoneError("the front-end closed")
            if self._changes.settled:
                self.transport.flush()
                if of_socket & select.POLLIN:
                    self._read()
                self.transport.check_stuck()

    def settle(self) -> None:
        """Try again to put a message into effect that a worker keeps waiting. Raises EndedError."""
        with _ends():
            self._changes.settle()

    def _read(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if self.transport.wants_write or not self._changes.settled or self._may_read_at is not None:
                return
            message = self.transport.receive()
            if message is None:
                return
            self._changes.count_message()
            self.session.handle(message)

    def close(self) -> None:
        """Close the socket and stop the rings. The rest is released with the change that the caller settles."""
        try:
            self.transport.close()
        finally:
            self._changes.begin()
            self.session.close()
