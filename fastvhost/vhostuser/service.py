"""The control side of a vhost-user port: a socket, a thread, one front-end at a time. vhost-user, "Communication".

The thread sleeps in one poll() over everything that concerns its port: the listening socket, the connection, kick file
descriptors that wait for their first kick, the port's own attention and the wish to stop. It never waits for a peer.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import threading
import time
from typing import Any, Literal

from fastvhost.vhostuser.connection import Connection, EndedError
from fastvhost.vhostuser.description import describe
from fastvhost.vhostuser.endpoint import Dialer, Listener, ServiceError
from fastvhost.vhostuser.logbook import Logbook
from fastvhost.vhostuser.memory import REAL_MEMORY, MemoryMaker
from fastvhost.vhostuser.narrative import Line, Narrative
from fastvhost.vhostuser.port_face import PortFace

__all__ = ["ServiceError", "VhostUserService"]

ACCEPTS_PER_TURN = 8
PAUSE = 0.25
"""Seconds without accepting when there was no room for a connection, and of rest after a defect."""
SERVED_FOR = 1.0
"""A connection that lasted so long was one: the next attempt comes at once."""


class VhostUserService:
    """Listens on (mode "server") or connects to (mode "client") a path, and drives a port as its front-end says."""

    def __init__(
        self,
        path: str,
        port: PortFace,
        *,
        mode: Literal["server", "client"] = "server",
        socket_mode: int = 0o660,
        socket_group: str | None = None,
        memory: MemoryMaker = REAL_MEMORY,
    ) -> None:
        self._path = path
        self._port = port
        self._mode = mode
        self._socket_mode = socket_mode
        self._socket_group = socket_group
        self._memory = memory
        group = f", group {socket_group}" if socket_group else ""
        self._narrative = Narrative(os.path.abspath(path), mode, f"mode {socket_mode:04o}{group}")  # noqa: PTH100
        self._logbook = Logbook(port.name)
        self._listener: Listener | None = None
        self._dialer: Dialer | None = None
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._paused_until = 0.0
        self._wake = -1
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.defects = 0
        """Errors of ours that ended a connection. The thread outlives them."""

    def open(self) -> None:
        """Take the path: listen, or check that it can be connected to. Raises ServiceError, one sentence."""
        if self._mode == "server":
            self._listener = Listener(self._path, self._socket_mode, self._socket_group)
        else:
            self._dialer = Dialer(self._path)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._narrative.waiting()
        self._log()

    def start(self) -> None:
        """Answer, in a thread of its own, until stop()."""
        self._thread = threading.Thread(target=self._run, name=f"control {self._port.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Stop the rings, close everything, remove the socket. Raises TimeoutError when the thread does not end."""
        self._stopping = True
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"the control thread of port {self._port.name} did not end in {timeout:g} s")
            self._thread = None
        self._shut()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells. From any thread."""
        about: dict[str, Any] = {"socket": self._path, "mode": self._mode, "state": self._narrative.state}
        connection = self._connection
        return about | (describe(connection, self._port) if connection is not None else {"peer_pid": None})

    # The thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
                self._log()
            except Exception as error:
                self._survive(error)
        self._shut()

    def _survive(self, error: Exception) -> None:
        """A defect of ours must cost this front-end its connection, and nobody else anything."""
        self.defects += 1
        logging.getLogger("fastvhost").debug("port %s", self._port.name, exc_info=error)
        with contextlib.suppress(Exception):
            self._drop(f"internal error {type(error).__name__}: {error}", logging.ERROR)
        with contextlib.suppress(Exception):
            self._log()
        # What failed at once may fail at once again.
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.poll(PAUSE * 1000)

    def _turn(self) -> None:
        """Wait for anything and deal with it once."""
        now = time.monotonic()
        if self._connection is None and self._dialer is not None and now >= self._dialer.due:
            self._dial(self._dialer)
        ready = self._wait(now)
        if self._connection is not None:
            try:
                self._connection.serve(ready)
            except EndedError as end:
                self._drop(str(end), end.level)
        elif self._port.attention_fd in ready:
            self._port.events()  # of the connection before
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)
        self._narrative.tick(self._view)

    def _wait(self, now: float) -> dict[int, int]:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._port.attention_fd, select.POLLIN)
        deadlines = [self._narrative.deadline]
        if self._listener is not None:
            if now >= self._paused_until:
                poller.register(self._listener, select.POLLIN)
            else:
                deadlines.append(self._paused_until)
        if self._connection is not None:
            self._connection.register(poller)
            deadlines.append(self._connection.transport.deadline)
        elif self._dialer is not None:
            deadlines.append(self._dialer.due)
        first = min((when for when in deadlines if when is not None), default=None)
        # Rounded up: waking before the time would only mean to wait again.
        timeout = None if first is None else max(0, math.ceil((first - now) * 1000))
        return dict(poller.poll(timeout))

    def _accept(self, listener: Listener) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock = listener.accept()
            except OSError as error:
                self._narrative.refused(f"cannot take a connection: {error.strerror}")
                self._paused_until = time.monotonic() + PAUSE
                return
            if sock is None:
                return
            if self._connection is not None and self._connection.hung_up:
                # Its end came after we looked: whoever closes and comes back at once is not turned away.
                self._drop("the front-end closed")
            if self._connection is None:
                self._connect(sock)
            else:
                sock.close()
                pid = self._connection.peer_pid
                self._narrative.refused(f"a second front-end was turned away, process {pid} is connected")

    def _dial(self, dialer: Dialer) -> None:
        sock = dialer.dial()
        if sock is None:
            self._narrative.cannot_connect(dialer.reason)
        else:
            self._connect(sock)

    def _connect(self, sock: socket.socket) -> None:
        try:
            self._connection = Connection(sock, self._port, self._narrative, time.monotonic, self._memory)
        except BaseException:
            sock.close()
            raise
        self._connected_at = time.monotonic()

    def _drop(self, reason: str, level: int = logging.INFO) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            self._logbook.write(Line(level, reason, "defects"))
            return
        with contextlib.suppress(Exception):
            # What the rings did last belongs before the end of the story; trouble with it does not matter any more.
            connection.session.attend()
        try:
            connection.close()
        finally:
            if self._stopping:
                self._narrative.stopped()
            else:
                self._narrative.disconnected(reason, level)
            if self._dialer is not None:
                served = time.monotonic() - self._connected_at >= SERVED_FOR
                self._dialer.settled() if served else self._dialer.lost()

    def _view(self) -> Any:
        assert self._connection is not None
        return self._connection.session.view()

    def _log(self) -> None:
        for line in self._narrative.take():
            self._logbook.write(line)

    def _shut(self) -> None:
        try:
            if self._connection is not None:
                self._drop("stopping")
        except Exception as error:
            self.defects += 1
            self._logbook.write(
                Line(logging.ERROR, f"did not stop cleanly: {type(error).__name__}: {error}", "defects")
            )
        if self._listener is not None:
            self._listener.close()
        self._log()
