"""The control socket of a running fwd: one JSON request per line, one JSON answer per line. CLI.md.

Request: {"command": "stats"} or {"command": "show", "port": "a"}. Answer: {"ok": true, "result": ...} or
{"ok": false, "error": "..."}. One small thread serves all clients without ever blocking on one of them; how many they
are, how long a request may be and how much may wait to be sent are bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastvhost.control.errors import RuntimeFailure
from fastvhost.vhostuser import socket_file

MODE = 0o660
ELSEWHERE = "name another place with --control PATH"
MAX_CLIENTS = 16
MAX_REQUEST_BYTES = 4096
# An answer to show with hundreds of ports is a few hundred KiB; a client that does not read is cut off beyond this.
MAX_UNSENT_BYTES = 4 << 20
# A client that says nothing gives its place to another one after this long.
IDLE_SECONDS = 30.0

Handler = Callable[[Mapping[str, Any]], Any]


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.unsent = b""
        self.last_active = time.monotonic()


class ControlSocket:
    """Listens from open() on, answers between start() and stop()."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], group: int = -1) -> None:
        self.path = path
        self._handlers = handlers
        self._group = group
        self._listener: socket.socket | None = None
        self._file: socket_file.OwnFile | None = None
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, _Client] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._stopping = False

    def open(self) -> None:
        """Bind and listen. A stale socket is removed, anything else in the way is an error."""
        try:
            socket_file.check_directory(os.fspath(self.path), ELSEWHERE)
            socket_file.remove_stale(os.fspath(self.path), ELSEWHERE)
        except socket_file.PathTakenError as error:
            raise RuntimeFailure(str(error)) from error
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            group = self._group if self._group >= 0 else None
            self._file = socket_file.bind(listener, os.fspath(self.path), MODE, group)
            listener.listen(MAX_CLIENTS)
        except OSError as error:
            self._close(listener)
            raise RuntimeFailure(f"{self.path}: no control socket: {error.strerror}; {ELSEWHERE}") from error
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def withdraw(self) -> None:
        """Free the path, answer nobody any more, ask the thread to end. Waits for nothing. Idempotent."""
        self._stopping = True
        file, self._file = self._file, None
        if file is not None:
            file.remove()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def stop(self, timeout: float = 1.0) -> bool:
        """End the thread, close every connection, remove the socket. Idempotent. False where the thread did not end."""
        self.withdraw()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return False  # what it works on stays open
        if self._listener is not None:
            self._close(self._listener)
            self._listener = None
        for client in list(self._clients.values()):
            client.connection.close()
        self._clients.clear()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        return True

    def _close(self, listener: socket.socket) -> None:
        if self._file is not None:
            self._file.remove()
            self._file = None
        listener.close()

    def _serve(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select(timeout=1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Client):
                    self._attend(key.data, events)
            self._drop_idle()

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            if len(self._clients) >= MAX_CLIENTS:
                connection.close()
                return
            connection.setblocking(False)
            client = self._clients[connection] = _Client(connection)
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _attend(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = client.connection.recv(MAX_REQUEST_BYTES)
                if not data:
                    return self._drop(client)
                client.received += data
                client.last_active = time.monotonic()
                self._take_requests(client)
            if client.unsent:
                client.unsent = client.unsent[client.connection.send(client.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(client)
        if len(client.received) > MAX_REQUEST_BYTES or len(client.unsent) > MAX_UNSENT_BYTES:
            return self._drop(client)
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, wanted, client)
        return None

    def _take_requests(self, client: _Client) -> None:
        *lines, client.received = client.received.split(b"\n")
        for line in lines:
            client.unsent += json.dumps(self._answer(line)).encode() + b"\n"

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not a line of JSON"}
        command = request.get("command") if isinstance(request, dict) else None
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if handler is None:
            return {"ok": False, "error": f"no such command; there are {', '.join(self._handlers)}"}
        try:
            return {"ok": True, "result": handler(request)}
        except LookupError as error:
            return {"ok": False, "error": str(error.args[0]) if error.args else "no such thing"}
        except Exception as error:
            # A defect in one answer must not take the control socket away from the operator.
            return {"ok": False, "error": f"internal error: {error!r}"}

    def _drop_idle(self) -> None:
        limit = time.monotonic() - IDLE_SECONDS
        for client in [client for client in self._clients.values() if client.last_active < limit]:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        del self._clients[client.connection]
        client.connection.close()
