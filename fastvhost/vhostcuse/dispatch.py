"""Answers the kernel's requests: open files, the ioctl table, the retry protocol, and who may ask what.

The kernel sends an ioctl without data first. The answer says how much of the caller's memory is wanted, and the kernel
sends the ioctl again with that. No state is kept between these attempts: the amount that came (nothing, a first part,
or all) decides what is next, and everything is checked again at each attempt.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fastvhost.backend.changes import Changes
from fastvhost.backend.errors import ProtocolError, SessionEndError
from fastvhost.backend.memory import REAL_MEMORY, MemoryMaker
from fastvhost.backend.narrative import Narrative
from fastvhost.backend.payload import U64, VringAddr, VringState
from fastvhost.backend.port_api import PortApi
from fastvhost.backend.session_state import SessionContext
from fastvhost.vhostcuse import message
from fastvhost.vhostcuse.caller import Caller, IoctlError, Process
from fastvhost.vhostcuse.ioctls import IoctlNumber, MemoryMap, VringFile, command_name
from fastvhost.vhostcuse.message import CuseRequest, Ioctl, Opcode
from fastvhost.vhostcuse.session import OFFERED, CuseSession, Surroundings

MOST_OPEN = 1024
"""The most open files of one device. Each needs a few words of memory here; more are refused."""


class IoctlPayload(Protocol):
    """What an ioctl carries."""

    @classmethod
    def decode(cls, data: bytes) -> Any: ...
    def encode(self) -> bytes: ...


class IoctlRow(NamedTuple):
    """How one ioctl is handled."""

    handler: Callable[..., Any]
    payload: type[IoctlPayload] | None = None
    reads: int = 0
    """Bytes of the caller's memory that it reads; for a table that contains its own length, only the first part."""
    writes: int = 0
    """Bytes of the caller's memory that it writes."""
    door: bool = True
    """Whether it changes the port (at the door) or prepares that: for the owner only, in its session."""
    whole: Callable[[bytes], int] | None = None
    """All bytes that it reads, given the first part."""


class Dispatcher:
    """Answers one device's requests. identify: finds the process of a calling thread."""

    def __init__(
        self,
        port: PortApi,
        narrative: Narrative,
        memory: MemoryMaker = REAL_MEMORY,
        identify: Callable[[int], Caller] = Process,
        host: Surroundings = Surroundings(),  # noqa: B008 - immutable
    ) -> None:
        self._port = port
        self._narrative = narrative
        self._memory = memory
        self._identify = identify
        self._host = host
        self._handles: set[int] = set()
        self._next_handle = 1
        self.session: CuseSession | None = None
        self.changes = Changes(port)
        """The changes of the port; the service replaces it by its own."""

    @property
    def open_files(self) -> int:
        return len(self._handles)

    def answer(self, data: bytes, write: Callable[[bytes], None]) -> None:
        """Handle one request as it was read. The answer, if any, goes to `write` once its change has taken effect.

        Raises MalformedRequestError without a header.
        """
        request = message.decode_request(data)
        self.changes.begin()
        try:
            answer = self._answer(request)
        except message.MalformedRequestError as error:
            self._narrative.refused(f"the kernel asked {error}")
            answer = message.encode_error(request.unique, errno.EINVAL)
        if answer is not None:
            late = answer if callable(answer) else (lambda: answer)
            self.changes.then(lambda: write(late()))
        self.changes.settle()

    def _answer(self, request: CuseRequest) -> bytes | Callable[[], bytes] | None:
        match request.opcode:
            case Opcode.IOCTL:
                return self._ioctl(request)
            case Opcode.OPEN:
                return self._open(request)
            case Opcode.RELEASE:
                return self._release(request)
            case Opcode.INTERRUPT:
                return None  # there is nothing to interrupt: the answer is on its way
            case _:
                return message.encode_error(request.unique, errno.ENOSYS)

    def _open(self, request: CuseRequest) -> bytes:
        if len(self._handles) >= MOST_OPEN:
            return message.encode_error(request.unique, errno.EMFILE)
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self._handles.add(handle)
        return message.encode_open(request.unique, handle)

    def _release(self, request: CuseRequest) -> bytes:
        handle = message.decode_release(request.body)
        self._handles.discard(handle)
        self._disown(handle, "the front-end closed")
        return message.encode_error(request.unique, 0)

    def _ioctl(self, request: CuseRequest) -> bytes | Callable[[], bytes]:
        ioctl = message.decode_ioctl(request.body)
        row = TABLE.get(ioctl.command)
        try:
            if ioctl.handle not in self._handles:
                raise IoctlError(errno.EBADF, "not an open file")
            if ioctl.flags & message.OTHER_ABI:
                raise IoctlError(errno.EOPNOTSUPP, "a 32-bit program asks; use a 64-bit one")
            if row is None:
                # Not logged: callers try newer ioctls and do without them.
                return message.encode_error(request.unique, errno.ENOTTY)
            if row.door:
                self._owner(request, ioctl)
            wanted = self._wanted(row, ioctl)
            if wanted is not None:
                address = ioctl.argument
                reads = [(address, wanted)] if wanted else []
                return message.encode_retry(request.unique, reads, [(address, row.writes)] if row.writes else [])
            result = self._handle(row, request, ioctl)
        except ProtocolError as error:
            memory = ioctl.command == IoctlNumber.SET_MEM_TABLE
            self._narrative.refused(f"{command_name(ioctl.command)} refused: {error}", memory=memory)
            return message.encode_error(request.unique, error.errno if isinstance(error, IoctlError) else errno.EINVAL)
        if callable(result):
            return lambda: message.encode_ioctl(request.unique, result().encode())
        return message.encode_ioctl(request.unique, result.encode() if result is not None else b"")

    @staticmethod
    def _wanted(row: IoctlRow, ioctl: Ioctl) -> int | None:
        """How many bytes of the caller's memory to ask for; None where all have come. Raises ProtocolError."""
        came = len(ioctl.data)
        if came < row.reads:
            if came:
                raise ProtocolError(f"{came} bytes came where {row.reads} were asked for")
            return row.reads
        whole = row.whole(ioctl.data) if row.whole else row.reads
        if came == whole:
            return None if ioctl.out_size >= row.writes else whole
        if came != row.reads:
            raise ProtocolError(f"its table has {whole} bytes now, and {came} when it was asked before")
        return whole

    def _handle(
        self, row: IoctlRow, request: CuseRequest, ioctl: Ioctl
    ) -> IoctlPayload | Callable[[], IoctlPayload] | None:
        payload = row.payload.decode(ioctl.data) if row.payload and row.reads else None
        if not row.door:
            return row.handler(self, request, ioctl)  # type: ignore[no-any-return]
        self.look()  # report a ring that broke before this request sets it up anew
        session, pair = self._owner(request, ioctl)
        result: IoctlPayload | Callable[[], IoctlPayload] | None = row.handler(session, pair, payload)
        self._narrative.rings(session.rings)
        return result

    def _owner(self, request: CuseRequest, ioctl: Ioctl) -> tuple[CuseSession, int]:
        """The session and queue pair of this file. Raises IoctlError unless the owner calls."""
        pair = self.session.pair_of(ioctl.handle) if self.session is not None else None
        if self.session is None or pair is None:
            raise IoctlError(errno.EPERM, "the file has no owner, VHOST_SET_OWNER comes first")
        if not self.session.caller.is_caller(request.thread):
            raise IoctlError(errno.EPERM, f"its owner is process {self.session.caller.pid}, and another one asks")
        return self.session, pair

    def _get_features(self, _request: CuseRequest, _ioctl: Ioctl) -> U64:
        return U64(OFFERED)

    def _set_owner(self, request: CuseRequest, ioctl: Ioctl) -> None:
        if self.session is not None:
            owner = self.session.caller
            if not owner.is_caller(request.thread):
                raise IoctlError(errno.EBUSY, f"a second front-end was turned away, process {owner.pid} is connected")
            self.session.claim(ioctl.handle)
            return
        caller = self._identify(request.thread)
        context = SessionContext(self._port, self.changes, self._narrative, self._memory)
        session = CuseSession(caller, context, self._host)
        session.claim(ioctl.handle)
        self._port.set_link(True)
        self.session = session
        self._narrative.connected(caller.pid)
        self._narrative.spoke()

    def _reset_owner(self, request: CuseRequest, ioctl: Ioctl) -> None:
        self._owner(request, ioctl)
        self._disown(ioctl.handle, "the front-end let go of it")

    def _disown(self, handle: int, reason: str) -> None:
        if self.session is not None and self.session.pair_of(handle) is not None:
            self.session.release(handle)
            if self.session.empty:
                self.drop(reason)

    def forget(self) -> None:
        """The device is gone, and all its files with it."""
        self._handles.clear()

    def look(self) -> None:
        """Handle what workers found, and notice an owner that has ended."""
        if self.session is None:
            self._port.events()  # discards what was about the front-end before
            return
        try:
            self.session.attend()
        except SessionEndError as error:
            self.drop(str(error), logging.WARNING)

    def drop(self, reason: str, level: int = logging.INFO, *, stopping: bool = False) -> None:
        """End the session, if there is one. Its files stay open, and a process may become their owner again."""
        session, self.session = self.session, None
        if session is None:
            return

        self.changes.begin()
        try:
            try:
                session.close()
            finally:
                self.changes.settle()
        finally:
            if stopping:
                self._narrative.stopped()
            else:
                self._narrative.disconnected(reason, level)


TABLE: dict[int, IoctlRow] = {
    IoctlNumber.GET_FEATURES: IoctlRow(Dispatcher._get_features, writes=8, door=False),
    IoctlNumber.SET_FEATURES: IoctlRow(CuseSession.set_features, U64, reads=8),
    IoctlNumber.SET_OWNER: IoctlRow(Dispatcher._set_owner, door=False),
    IoctlNumber.RESET_OWNER: IoctlRow(Dispatcher._reset_owner, door=False),
    IoctlNumber.SET_MEM_TABLE: IoctlRow(CuseSession.set_mem_table, MemoryMap, reads=8, whole=MemoryMap.whole),
    IoctlNumber.SET_VRING_NUM: IoctlRow(CuseSession.set_vring_num, VringState, reads=8),
    IoctlNumber.SET_VRING_ADDR: IoctlRow(CuseSession.set_vring_addr, VringAddr, reads=40),
    IoctlNumber.SET_VRING_BASE: IoctlRow(CuseSession.set_vring_base, VringState, reads=8),
    IoctlNumber.GET_VRING_BASE: IoctlRow(CuseSession.get_vring_base, VringState, reads=8, writes=8),
    IoctlNumber.SET_VRING_KICK: IoctlRow(CuseSession.set_vring_kick, VringFile, reads=8),
    IoctlNumber.SET_VRING_CALL: IoctlRow(CuseSession.set_vring_call, VringFile, reads=8),
    IoctlNumber.SET_VRING_ERR: IoctlRow(CuseSession.set_vring_err, VringFile, reads=8),
    IoctlNumber.SET_VRING_BUSYLOOP_TIMEOUT: IoctlRow(CuseSession.set_busyloop_timeout, VringState, reads=8),
    IoctlNumber.SET_BACKEND_FEATURES: IoctlRow(CuseSession.set_backend_features, U64, reads=8),
    IoctlNumber.GET_BACKEND_FEATURES: IoctlRow(CuseSession.get_backend_features, writes=8),
    IoctlNumber.NET_SET_BACKEND: IoctlRow(CuseSession.net_set_backend, VringFile, reads=8),
}
"""All other ioctls are answered ENOTTY: those of the dirty log, and of guests of another byte order, for example."""
