"""The control socket of a running fwd: one JSON request per line, one JSON answer per line.

Request: {"command": "stats"} or {"command": "show", "port": "a"}. Answer: {"ok": true, "result": ...} or
{"ok": false, "error": "..."}. One thread serves all clients and never waits for one of them. The number of clients, the
length of a request and the bytes that wait to be sent are bounded. Idle clients make room for new ones. An error with a
client ends that client's connection and never the thread. Requests that change something are for this user, root and
the members of one group, whoever may connect. File descriptors are not taken: since Linux 6.16 the kernel
refuses them for us; before, they are closed as a front-end's are, and the connection with them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastvhost.backend import foreign_files
from fastvhost.control.errors import FastvhostError, RuntimeFailure
from fastvhost.control.open_files import RAISE, ran_out
from fastvhost.dataplane.threads import Thread
from fastvhost.sockets.listening import ListeningSocket
from fastvhost.sockets.socket_file import PathTakenError

MODE = 0o660
ELSEWHERE = "name another place with --control PATH"
NOT_ALLOWED = "only its own user and root may change this fwd; start it with --control-group GROUP to allow others"
MAX_CLIENTS = 16
MAX_PER_USER = 8
"""The most clients of one user. A further one takes the place of the one that was idle longest."""
PAUSE = 0.25
"""Seconds without accepting where there is no room for a client, and of pause after an internal error."""
MOST_TOLD = 8
"""The most kinds of trouble that are logged, so that no client can fill a disk."""
MAX_REQUEST_BYTES = 4096
# An answer to show with hundreds of ports is a few hundred KiB; a client that does not read is cut off beyond this.
MAX_UNSENT_BYTES = 4 << 20
TOO_LONG = b'{"ok": false, "error": "the answer is longer than 4 MiB; ask for one port, or part by part with from"}'
# After this long without a request, a client may lose its place to a new one.
IDLE_SECONDS = 30.0

SO_PEERGROUPS = 59
"""Linux 4.13, include/uapi/asm-generic/socket.h"""
MOST_GROUPS = 65536
"""NGROUPS_MAX of Linux."""
_GROUP = struct.Struct("=I")
_PEER = struct.Struct("=iII")
"""Process, user and group of who connected: struct ucred. unix(7)"""
log = logging.getLogger("fastvhost")
Handler = Callable[[Mapping[str, Any]], Any]


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        _, self.user, self._group = _PEER.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        self.received = b""
        self.unsent = b""
        self.last_active = time.monotonic()

    def may_change(self, group: int) -> bool:
        """Whether it is this process's user, root, or a member of the group (-1: none)."""
        return self.user in (0, os.geteuid()) or (group >= 0 and group in (self._group, *_groups(self.connection)))


def _groups(connection: socket.socket) -> tuple[int, ...]:
    """The other groups of who connected; none where the kernel does not tell."""
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUP.size * MOST_GROUPS)
    except OSError:
        return ()
    return tuple(group for (group,) in _GROUP.iter_unpack(told))


class _Listener(ListeningSocket):
    def __init__(self, path: str, group: int | None, make_directory: Callable[[], object]) -> None:
        self._make_directory = make_directory
        super().__init__(path, MODE, group, MAX_CLIENTS, elsewhere=ELSEWHERE)

    def _prepare(self) -> None:
        self._make_directory()

    def _hold(self, sock: socket.socket) -> None:
        foreign_files.refuse_files(sock)
        foreign_files.keep([sock.fileno()])

    def _discard(self, sock: socket.socket) -> None:
        foreign_files.close_socket(sock)


class ControlSocket:
    """Listens from open() on, answers between start() and stop()."""

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        group: int = -1,
        make_directory: Callable[[], object] = lambda: None,
        changes: Mapping[str, Handler] | None = None,
        changing_group: int = -1,
    ) -> None:
        """make_directory: makes the path's directory where it was removed later. May raise OSError.

        changes: handlers of requests that change something.
        changing_group: whose members may make them, beside this user and root.
        """
        self.path = path
        self._make_directory = make_directory
        self._handlers = {**handlers, **(changes or {})}
        self._changes = frozenset(changes or ())
        self._changing_group = changing_group
        self._group = group
        self._listener: _Listener | None = None
        self._clients: dict[socket.socket, _Client] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread = Thread(target=self._serve, name="control", daemon=True)
        self._stopping = threading.Event()
        self._paused_until = 0.0
        self._reserve = -1
        """A file that is closed to take one client where no more files can be opened: it may be an operator."""
        self._told: set[str] = set()

    def open(self) -> None:
        """Bind and listen. A stale socket is removed, anything else in the way is an error."""
        try:
            group = self._group if self._group >= 0 else None
            self._listener = _Listener(os.fspath(self.path), group, self._make_directory)
        except PathTakenError as error:
            raise RuntimeFailure(str(error)) from error
        except OSError as error:
            raise RuntimeFailure(f"{self.path}: no control socket: {error.strerror}; {ELSEWHERE}") from error
        self._keep_reserve()

    def start(self) -> None:
        """Serve in a thread."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise RuntimeFailure(f"{self.path}: {error}; raise TasksMax= in the unit, or ulimit -u") from error

    def withdraw(self) -> None:
        """Remove the file, answer no more requests, ask the thread to end. Does not wait. Idempotent."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.withdraw()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def stop(self, timeout: float = 1.0) -> bool:
        """End the thread, close every connection, remove the socket. Idempotent. False where the thread did not end."""
        self.withdraw()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return False  # it still uses its sockets
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in list(self._clients.values()):
            foreign_files.close_socket(client.connection)
        self._clients.clear()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        self._wake.close()
        self._woken.close()
        return True

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception as error:
                self._tell("internal error", error)
                self._stopping.wait(PAUSE)  # the same error may come again at once

    def _turn(self) -> None:
        if self._listener is not None and (said := self._listener.look(time.monotonic())):
            log.warning("control socket: %s", said)
        # Made anew each turn, so that a turn that failed half-way leaves nothing registered.
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        paused = time.monotonic() < self._paused_until
        if self._listener is not None and not paused:
            poller.register(self._listener, select.POLLIN)
        there = {client.connection.fileno(): client for client in self._clients.values()}
        for fd, client in there.items():
            poller.register(fd, select.POLLIN | (select.POLLOUT if client.unsent else 0))
        ready = dict(poller.poll((PAUSE if paused else 1.0) * 1000))
        if self._stopping.is_set():
            return
        for fd, events in ready.items():
            if fd in there:
                try:
                    self._attend(there[fd], events)
                except Exception as error:
                    self._tell("a client was dropped", error)
                    self._drop(there[fd])
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)
        self._drop_idle()

    def _accept(self, listener: _Listener) -> None:
        connection = None
        try:
            connection = self._next(listener)
            if connection is None:
                return
            connection.setblocking(False)
            foreign_files.keep([connection.fileno()])
            client = _Client(connection)
            self._make_room(client.user)
            self._clients[connection] = client
        except Exception as error:
            # There is no room for it: the other clients are served, and it may connect again later.
            self._tell("cannot take a client", error)
            if connection is not None:
                foreign_files.close_socket(connection)
            self._paused_until = time.monotonic() + PAUSE

    def _next(self, listener: _Listener) -> socket.socket | None:
        """The next connection, or None. Raises OSError where there is no room for it."""
        try:
            return listener.accept()
        except OSError as error:
            if not ran_out(error):
                raise
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        elif self._clients:
            self._drop(min(self._clients.values(), key=lambda client: client.last_active))
        return listener.accept()

    def _make_room(self, user: int) -> None:
        """Close a client to make room for this user: of the user with most clients, the one idle longest."""
        users = Counter(client.user for client in self._clients.values())
        if users[user] < MAX_PER_USER:
            if len(self._clients) < MAX_CLIENTS:
                return
            user = users.most_common(1)[0][0]
        idle = min((one for one in self._clients.values() if one.user == user), key=lambda one: one.last_active)
        self._drop(idle)

    def _keep_reserve(self) -> None:
        if self._reserve < 0:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _tell(self, what: str, error: Exception) -> None:
        remedy = f"; {RAISE}" if ran_out(error) else ""
        text = f"control socket: {what}: {type(error).__name__}: {error}{remedy}"
        if text not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(text)
            log.warning("%s", text)
            log.debug("control socket", exc_info=error)

    def _attend(self, client: _Client, events: int) -> None:
        try:
            if events & ~select.POLLOUT:
                data, fds, lost = foreign_files.receive(client.connection, MAX_REQUEST_BYTES)
                unasked = bool(fds) or lost
                foreign_files.close_all(fds)
                if unasked or not data:
                    return self._drop(client)
                client.received += data
                client.last_active = time.monotonic()
                self._take_requests(client)
                if len(client.unsent) > MAX_UNSENT_BYTES:
                    return self._drop(client)
            if client.unsent:
                client.unsent = client.unsent[client.connection.send(client.unsent) :]
                client.last_active = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(client)
        if len(client.received) > MAX_REQUEST_BYTES:
            return self._drop(client)
        return None

    def _take_requests(self, client: _Client) -> None:
        *lines, client.received = client.received.split(b"\n")
        for line in lines:
            if len(client.unsent) > MAX_UNSENT_BYTES:
                return  # it asks for more than it reads: no further answer is made
            answer = json.dumps(self._answer(client, line)).encode()
            client.unsent += (answer if len(answer) < MAX_UNSENT_BYTES else TOO_LONG) + b"\n"

    def _answer(self, client: _Client, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not a line of JSON"}
        command = request.get("command") if isinstance(request, dict) else None
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if handler is None:
            return {"ok": False, "error": f"no such command; there are {', '.join(self._handlers)}"}
        if command in self._changes and not client.may_change(self._changing_group):
            return {"ok": False, "error": f"{command}: {NOT_ALLOWED}"}
        try:
            return {"ok": True, "result": handler(request)}
        except FastvhostError as error:
            return {"ok": False, "error": str(error), "exit_code": error.exit_code}
        except LookupError as error:
            return {"ok": False, "error": str(error.args[0]) if error.args else "no such thing"}
        except Exception as error:
            # An internal error in one answer must not end the control socket.
            return {"ok": False, "error": f"internal error: {error!r}"}

    def _drop_idle(self) -> None:
        limit = time.monotonic() - IDLE_SECONDS
        for client in [client for client in self._clients.values() if client.last_active < limit]:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        """Idempotent."""
        self._clients.pop(client.connection, None)
        foreign_files.close_socket(client.connection)
        self._keep_reserve()
