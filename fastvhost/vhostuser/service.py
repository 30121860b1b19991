"""The control side of a vhost-user port: a socket and one front-end at a time. vhost-user, "Communication"."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast

from fastvhost.backend import advice, foreign_files
from fastvhost.backend.budget import Bucket
from fastvhost.backend.control_thread import PAUSE, ControlThread
from fastvhost.backend.description import describe
from fastvhost.backend.errors import ProtocolError, ServiceError
from fastvhost.backend.features import names
from fastvhost.backend.logbook import Line
from fastvhost.backend.memory import REAL_MEMORY, MemoryMaker
from fastvhost.backend.narrative import Narrative, View
from fastvhost.backend.port_api import PortApi
from fastvhost.backend.record import Record, RecordError
from fastvhost.backend.session_state import SessionContext
from fastvhost.vhostuser import net_config
from fastvhost.vhostuser.connection import Connection, EndedError
from fastvhost.vhostuser.listener import Dialer, Listener
from fastvhost.vhostuser.net_config import PLAIN, DeviceSettings
from fastvhost.vhostuser.offer import WITHDRAWN, Offer
from fastvhost.vhostuser.protocol_features import promised_pairs, protocol_names

__all__ = ["DeviceSettings", "ServiceError", "VhostUserService", "promised_pairs"]

ACCEPTS_PER_TURN = 8
SERVED_FOR = 1.0
"""Seconds. After a connection that lasted this long, the next attempt to connect comes at once."""
LEAVING = 3
"""Front-ends in a row that left at once, before they shared memory, after which the log names the probable cause."""
LEAVERS_WAIT = 0.5
"""Seconds until the next front-end is taken then. A QEMU that waits for its back-end connects as fast as it can."""
IDLE_VISITS_AT_ONCE, IDLE_VISITS_A_SECOND = 1024, 100
"""Connections that end before their first ring, or come while another front-end is there. A guest that boots makes two
or three. Connections beyond that wait in the socket's queue."""


class VhostUserService(ControlThread):
    """Listens on a path (mode "server") or connects to it ("client"), and does on a port what its front-end asks."""

    def __init__(
        self,
        path: str,
        port: PortApi,
        *,
        mode: Literal["server", "client"] = "server",
        socket_mode: int = 0o660,
        socket_group: str | None = None,
        most_memory: int = 0,
        any_memory_file: bool = False,
        without: int = 0,
        queue_pairs: int = 0,
        device: DeviceSettings = PLAIN,
        memory: MemoryMaker = REAL_MEMORY,
        keep_record: Callable[[str, int], Record] | None = None,
    ) -> None:
        """most_memory: the most bytes of a guest that are mapped; 0: as many as this machine has.

        any_memory_file: guest memory may lie on a disk's file system, beside memfd, tmpfs and hugetlbfs.
        without: feature bits (virtio 1.2, sections 5.1.3 and 6) that are not offered to its front-ends.
        queue_pairs: how many a driver is told of; 0 for all that the port has. The port must have
        promised_pairs(queue_pairs) of them, for front-ends that read the number as one of virtqueues.
        device: MAC and largest MTU, for front-ends that ask.
        keep_record: opens the record that outlives this process, given the path and the number of rings.
        """
        self._path = path
        self._mode = mode
        self._socket_mode = socket_mode
        self._socket_group = socket_group
        self._queue_pairs = queue_pairs or port.queue_pairs
        self._device = device
        self._memory = memory._replace(most_bytes=most_memory, any_file=any_memory_file)
        whole = os.path.abspath(path)  # noqa: PTH100 - a link to the socket stays as it is
        group = f", group {socket_group}" if socket_group else ""
        listens = advice.by_listening(whole, f"mode {socket_mode:04o}{group}")
        super().__init__(port, Narrative(listens if mode == "server" else advice.by_connecting(whole)))
        self._listener: Listener | None = None
        self._dialer: Dialer | None = None
        self._keep_record = keep_record
        self._record: Record | None = None
        self._without = without
        self._offer = Offer(port.queue_pairs, without, device=device)
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._leaving = 0
        self._paused_until = 0.0
        self._idle_visits = Bucket(IDLE_VISITS_AT_ONCE, IDLE_VISITS_A_SECOND)

    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells. From any thread."""
        about: dict[str, Any] = {"socket": self._path, "mode": self._mode, "state": self._narrative.state}
        if self._listener is not None and self._listener.lost:
            about["socket_file"] = "another file has its path, nobody reaches this port"
        if self._device.mac:
            about["mac"] = net_config.text(self._device.mac)
        if self._device.mtu:
            about["mtu"] = self._device.mtu
        connection = self._connection
        if seconds := self._back_off.seconds_left:
            about["refused_for_seconds"] = round(seconds, 1)
        if connection is None:
            return about | {"peer_pid": None}
        session = connection.session
        if session.config.mac:
            about["mac"] = net_config.text(session.config.mac)
        wire = protocol_names(session.protocol_features)
        face = cast(PortApi, session.control)
        described = describe(session, connection.peer_pid, face, 2 * self._queue_pairs, protocol_features=wire)
        described["mtu"] = described["mtu"] or about.get("mtu")
        return about | described

    def _take(self) -> None:
        """Listen on the path, or check that it is one that can be connected to."""
        if self._mode == "server":
            self._listener = Listener(self._path, self._socket_mode, self._socket_group)
        else:
            self._dialer = Dialer(self._path)
        if self._keep_record is not None:
            try:
                self._record = self._keep_record(self._path, 2 * self._port.queue_pairs)
            except RecordError as error:
                self._narrative.unrecorded(str(error))
            else:
                self._port.keep_journals(self._record.journals)
                self._offer = Offer(self._port.queue_pairs, self._without, self._record, self._device)

    def _register(self, poller: select.poll, now: float) -> Iterable[float | None]:
        backs_off_until = self._back_off.ends_at or 0.0
        dialer = self._dialer if self._connection is None and not self._engaged else None
        if dialer is not None and now >= max(dialer.due, backs_off_until):
            self._dial(dialer)
        deadlines: list[float | None] = []
        if self._listener is not None:
            if said := self._listener.look(now):
                self._narrative.trouble(said)
                self._log()  # now: the next poll() may wait for long
            deadlines.append(self._listener.look_at)
        if self._listener is not None and not self._listener.withdrawn and not self._engaged:
            accepts_at = max(self._paused_until, self._idle_visits.ready_at or 0.0, backs_off_until)
            if now >= accepts_at:
                poller.register(self._listener, select.POLLIN)
            else:
                deadlines.append(accepts_at)
        if self._connection is not None:
            self._connection.register(poller)
            deadlines.append(self._connection.deadline)
        elif self._dialer is not None and not self._engaged:
            deadlines.append(max(self._dialer.due, backs_off_until))
        return deadlines

    def _serve(self, ready: dict[int, int]) -> None:
        if self._connection is not None:
            with self._ending():
                self._connection.serve(ready)
        elif self._port.attention_fd in ready:
            self._port.events()  # discards news of the connection before
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)

    def _settle(self) -> None:
        with self._ending():
            super()._settle() if self._connection is None else self._connection.settle()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Drop the connection on EndedError."""
        try:
            yield
        except EndedError as end:
            self._drop(str(end), end.level)

    def _accept(self, listener: Listener) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._paused:  # paused since register()
                return
            try:
                foreign_files.check_room()
                sock = listener.accept()
            except (OSError, ProtocolError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                self._narrative.refused(f"cannot take a connection: {reason}")
                self._paused_until = time.monotonic() + PAUSE
                return
            if sock is None:
                return
            if self._connection is not None and self._connection.hung_up:
                # The old connection may have ended after poll(): a front-end that reconnects at once is not turned
                # away.
                self._drop("the front-end closed")
            if self._engaged or self._paused:
                foreign_files.close_socket(sock)  # the peer connects again
                self._idle_visits.take()
            elif self._connection is None:
                self._connect(sock)
            else:
                foreign_files.close_socket(sock)
                self._idle_visits.take()
                # 0: a process of another pid namespace.
                other = f"process {self._connection.peer_pid}" if self._connection.peer_pid else "another one"
                self._narrative.refused(f"a second front-end was turned away, {other} is connected")

    @property
    def _paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _dial(self, dialer: Dialer) -> None:
        sock = dialer.dial()
        if sock is None:
            self._narrative.cannot_connect(dialer.reason)
        else:
            self._connect(sock)

    def _connect(self, sock: socket.socket) -> None:
        try:
            context = SessionContext(self._port, self._changes, self._narrative, self._memory)
            self._connection = Connection(sock, context, self._offer, self._queue_pairs)
        except BaseException:
            foreign_files.close_socket(sock)
            raise
        self._connected_at = time.monotonic()

    def _drop(self, reason: str, level: int = logging.INFO) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            if not self._stopping:
                self._logbook.write(Line(level, reason, "defects"))
            return
        if not connection.session.rings.ran:
            self._idle_visits.take()
        left = connection.session.asked and connection.session.features is None
        if left and self._offer.turned_down():
            self._narrative.turned_down(names(WITHDRAWN))
        with contextlib.suppress(Exception):
            # News of the rings is logged before the disconnection; errors of it do not matter any more.
            connection.session.attend()
        try:
            try:
                connection.close()
            finally:
                self._changes.settle()
        finally:
            if self._stopping:
                self._narrative.stopped()
            else:
                self._narrative.disconnected(reason, level)
                self._tell_leaving(connection)
            if self._dialer is not None:
                served = time.monotonic() - self._connected_at >= SERVED_FOR
                self._dialer.settled() if served else self._dialer.lost()

    def _tell_leaving(self, connection: Connection) -> None:
        """Tell why front-ends leave: those that want more queues than there are say so only on their own stderr."""
        session = connection.session
        brief = time.monotonic() - self._connected_at < SERVED_FOR
        if session.shared:
            self._leaving = 0
        elif session.owned and brief:
            self._leaving += 1
            if self._leaving >= LEAVING and session.features is None:
                self._paused_until = time.monotonic() + LEAVERS_WAIT
            if self._leaving == LEAVING:
                n = self._queue_pairs
                self._narrative.refused(
                    f"front-ends leave as soon as they know that there {'are' if n > 1 else 'is'} {n} queue "
                    f"pair{'s' * (n > 1)} here; one that wants more (QEMU's queues=) needs queues= at this port"
                )

    def _view(self) -> View:
        assert self._connection is not None
        return self._connection.session.view()

    def withdraw(self) -> None:
        """Remove the socket's file and take no more connections."""
        if self._listener is not None:
            self._listener.withdraw()

    def _let_go(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._record is not None:
            self._record.close()
