"""An HTTP server for the metrics, in the control plane. A scraper that is slow, or many of them, hold up nobody.

One thread accepts, a short-lived one answers each request, eight at most at once; a connection that has not had its
answer after five seconds is ended.
"""

from __future__ import annotations

import contextlib
import io
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from fastvhost.backend import foreign_files
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.metrics_address import ELSEWHERE, OPTION, MetricsAddress
from fastvhost.dataplane.threads import Thread
from fastvhost.sockets import socket_file

if TYPE_CHECKING:
    from fastvhost.control.metrics import Ports
    from fastvhost.control.stats import Snapshot

log = logging.getLogger("fastvhost")
MOST_CLIENTS = 8
CLIENT_SECONDS = 5.0
"""From accepting a connection to the end of the answer."""
LOOK_SECONDS = 0.5
"""Between two looks for connections that are too old, while there are any."""
BACKLOG = 16
MOST_TOLD = 8
"""The most kinds of errors that are logged."""
MODE = 0o660


def make(
    address: MetricsAddress, figures: Callable[[], Snapshot], ports: Callable[[], Ports], group: int = -1
) -> MetricsServer:
    """A server that listens. group: of its socket's file.

    Raises UsageError without prometheus_client, RuntimeFailure where it cannot listen.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app

        from fastvhost.control.metrics import FwdCollector
    except ImportError:
        raise UsageError(
            f"{OPTION} {address}: prometheus_client is not installed; pip install 'fastvhost[metrics]'"
        ) from None
    collectors = CollectorRegistry()
    collectors.register(FwdCollector(figures, ports))
    return MetricsServer(address, make_wsgi_app(collectors), group)


class MetricsServer:
    """Listens from the constructor on, answers between start() and stop()."""

    def __init__(self, address: MetricsAddress, app: Callable[..., Any], group: int = -1) -> None:
        self._address = address
        self._file: socket_file.OwnFile | None = None
        self._ended = threading.Event()
        try:
            self._server = _Server(self._listen(group))
        except socket_file.PathTakenError as error:
            raise RuntimeFailure(f"{OPTION} {error}") from error
        except OSError as error:
            raise RuntimeFailure(
                f"{OPTION} {address}: cannot listen there: {error.strerror}; choose another address"
            ) from error
        self._server.set_app(self._guarded(app))
        self._thread = Thread(target=self._run, name="metrics", daemon=True)

    def _listen(self, group: int) -> socket.socket:
        path = self._address.path
        family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in self._address.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if path:
                socket_file.check_directory(path, ELSEWHERE)
                socket_file.remove_stale(path, ELSEWHERE)
                self._file = socket_file.bind(made, path, MODE, None if group < 0 else group)
                foreign_files.refuse_files(made)
                foreign_files.keep([made.fileno()])
            else:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((self._address.host, self._address.port))
            made.listen(BACKLOG)
        except BaseException:
            self._remove_file()
            foreign_files.close_socket(made)
            raise
        return made

    def _guarded(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """The same, where an error is logged, each kind once, and answered with 500."""
        said: set[str] = set()

        def answer(environ: Any, start_response: Any) -> Any:
            try:
                return app(environ, start_response)
            except Exception as error:
                text = f"metrics: internal error {type(error).__name__}: {error}"
                if text not in said and len(said) < MOST_TOLD:
                    said.add(text)
                    log.exception("%s; they are left out, and this is a defect, please report it", text)
                start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
                return [f"{text}\n".encode()]

        return answer

    def start(self) -> None:
        """Answer from now on. Raises RuntimeError where no thread can be made."""
        self._thread.start()
        log.info("metrics at %s", self._address if self._address.path else f"http://{self._address}/metrics")

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._server.socket, select.POLLIN)
        while not self._ended.is_set():
            if poller.poll(LOOK_SECONDS * 1000 if self._server.answering else None) and not self._ended.is_set():
                self._server.handle_request()
            self._server.end_old(CLIENT_SECONDS)

    @property
    def answering(self) -> int:
        """Connections that have no answer yet."""
        return self._server.answering

    def _remove_file(self) -> None:
        if self._file is not None:
            self._file.remove()

    def withdraw(self) -> None:
        """Remove the socket's file, take no more requests. Does not wait. Idempotent."""
        self._ended.set()
        self._remove_file()
        with contextlib.suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread

    def stop(self, timeout: float) -> bool:
        """End its thread and connections that have no answer yet. Idempotent. False where the thread did not end."""
        self.withdraw()
        self._server.end_old(0.0)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        foreign_files.close_socket(self._server.socket)
        return True


class _Server(WSGIServer):
    """Answers each request in a thread of its own."""

    timeout = 0

    def __init__(self, listening: socket.socket) -> None:
        BaseServer.__init__(self, None, _Handler)  # type: ignore[arg-type]  # it listens already
        self.socket = listening
        self.server_name, self.server_port = "fastvhost", 0
        self.setup_environ()
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}
        """Connections without their answer yet, and when each came."""

    @property
    def answering(self) -> int:
        return len(self._since)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection; the address of a peer is asked by nobody."""
        connection, _ = self.socket.accept()
        if connection.family == socket.AF_UNIX:
            foreign_files.keep([connection.fileno()])
        connection.settimeout(CLIENT_SECONDS)
        return connection, ("", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called by handle_request(); an error here ends the connection alone."""
        with self._lock:
            if len(self._since) >= MOST_CLIENTS:
                raise ConnectionAbortedError(f"{MOST_CLIENTS} requests are being answered")
            self._since[request] = time.monotonic()
        try:
            Thread(target=self._answer, args=(request, client_address), name="metrics-answer", daemon=True).start()
        except BaseException:
            self._forget(request)
            raise

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the peer has gone, or had its time
        finally:
            self._forget(request)
            self.shutdown_request(request)

    def _forget(self, request: socket.socket) -> None:
        with self._lock:
            self._since.pop(request, None)

    def end_old(self, seconds: float) -> None:
        """End connections that wait for their answer for longer than this."""
        before = time.monotonic() - seconds
        with self._lock:
            for connection, since in self._since.items():
                if since <= before:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def close_request(self, request: Any) -> None:
        """It may hold files that were sent along with a request."""
        foreign_files.close_socket(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Refused, or no thread to be had: the peer sees its connection end."""


class _Handler(WSGIRequestHandler):
    def address_string(self) -> str:
        return ""

    def get_stderr(self) -> io.StringIO:
        """For tracebacks of clients that went away; errors of ours are logged by _guarded()."""
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: a scraper makes one every few seconds."""
