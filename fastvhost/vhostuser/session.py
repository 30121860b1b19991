"""One front-end on a socket: its requests, and how they are answered. vhost-user, "Front-end message types".

A request takes effect whole or not at all. A refused one is answered non-zero where the front-end asked for an
acknowledgement ("REPLY_ACK"); else it ends the connection, since the front-end could not learn of it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from fastvhost.backend import eventfd, features
from fastvhost.backend.errors import ProtocolError, SessionEndError
from fastvhost.backend.memory import MAX_SLOTS
from fastvhost.backend.payload import U64, VringAddr, VringState
from fastvhost.backend.port_api import PortApi
from fastvhost.backend.rings import ConfiguredRing
from fastvhost.backend.session_state import SessionContext, SessionState
from fastvhost.vhostuser import protocol_features
from fastvhost.vhostuser.controlled_port import ControlledPort
from fastvhost.vhostuser.message import (
    AnyPayload,
    DeviceConfig,
    LogBase,
    MemoryTable,
    Nothing,
    Request,
    SingleRegion,
    VringFd,
    decode_payload,
    encode_reply,
    request_name,
)
from fastvhost.vhostuser.net_config import PLAIN, DeviceSettings, NetConfig
from fastvhost.vhostuser.transport import Received

MOST_STATUS = 0xFF


class Terms(NamedTuple):
    """What a front-end is offered, and the functions that take its choices."""

    offered: int
    """Feature bits."""
    chosen: Callable[[int], None]
    """Called with the features that were acknowledged."""
    met: Callable[[Sequence[tuple[int, int]]], None]
    """Called with device and inode of the files in which the guest's memory lies."""
    pairs: int = 0
    """How many queue pairs the driver is told of, where the port has more. 0: all."""
    device: DeviceSettings = PLAIN
    """What the operator set for the device."""


class Session(SessionState):
    """A front-end on a socket. `send` takes an encoded reply."""

    def __init__(self, context: SessionContext, send: Callable[[bytes], None], terms: Terms) -> None:
        port = context.port
        self.control = ControlledPort(port, terms.pairs or port.queue_pairs)
        super().__init__(context._replace(port=cast(PortApi, self.control)), terms.offered)
        self._offered_protocol_features = protocol_features.offered_protocol_features(port.queue_pairs, terms.device)
        self.config = NetConfig(terms.device, self.control.pairs, terms.offered)
        self._chosen, self._meets = terms.chosen, terms.met
        self.asked = False
        """What is offered."""
        self._send = send
        self._closed = False
        self.protocol_features = 0
        self.owned = False
        self.shared = False
        """Whether the front-end sent memory, accepted or not."""

    def handle(self, message: Received) -> None:
        """Handle one message. Once its change has taken effect, answer it and close its files.

        Raises SessionEndError.
        """
        request = message.header.request
        row = HANDLERS.get(request)
        self._changes.begin()
        self._changes.then(message.close)
        self.attend()  # report a ring that broke before this message sets it up anew
        try:
            reply = self._dispatch(row, message)
        except ProtocolError as error:
            refusal = f"{request_name(request)} refused: {error}"
            last = not self._wants_ack(message) or (row is not None and row.replies)
            self._changes.then(lambda: self._refuse(request, refusal, last=last))
        else:
            acked = self._wants_ack(message)
            self._changes.then(lambda: self._answer(request, reply, acked=acked))
        self._changes.settle()

    def _refuse(self, request: int, sentence: str, *, last: bool) -> None:
        if self._closed:
            return
        if last:
            raise SessionEndError(sentence)
        self._narrative.refused(sentence, memory=request in (Request.SET_MEM_TABLE, Request.ADD_MEM_REG))
        self._send(encode_reply(request, U64(1)))

    def _answer(self, request: int, reply: AnyPayload | Callable[[], AnyPayload] | None, *, acked: bool) -> None:
        if self._closed:
            return
        if reply is not None:
            self._send(encode_reply(request, reply() if callable(reply) else reply))
        elif acked:
            self._send(encode_reply(request, U64(0)))

    def close(self) -> None:
        """End the session; no message is answered after this."""
        self._closed = True
        try:
            super().close()
        finally:
            self.control.close()

    def serve_control(self) -> None:
        """Do what the driver commands by its control queue. Raises SessionEndError when guest memory is gone."""
        self._changes.begin()
        done = self.control.serve()
        for _ in range(1 + len(done)):  # a kick without a command counts as a message, too
            self._changes.count_message()
        self._changes.then(lambda: self.control.answer(done))
        self._changes.settle()
        self.attend()

    def _wants_ack(self, message: Received) -> bool:
        """Called after the request took effect: it may be the SET_PROTOCOL_FEATURES that acknowledges REPLY_ACK."""
        acks = features.has(self.protocol_features, protocol_features.PROTOCOL_F_REPLY_ACK)
        return message.header.need_reply and acks

    def _dispatch(self, row: RequestRow | None, message: Received) -> AnyPayload | Callable[[], AnyPayload] | None:
        if row is None:
            raise ProtocolError("not a request of any feature offered here")
        payload = decode_payload(row.payload, message.payload)
        if len(message.fds) > row.most_fds:
            raise ProtocolError(f"{len(message.fds)} file descriptors with it, at most {row.most_fds} belong there")
        self._narrative.spoke()
        reply: AnyPayload | Callable[[], AnyPayload] | None = row.handler(self, payload, message)
        self._port.set_link(True)  # it sent a message, so it is a front-end
        self._narrative.rings(self.rings)
        return reply

    # Negotiation

    def _get_features(self, _payload: Nothing, _message: Received) -> U64:
        """User-mode Linux asks again before it frees rings that its driver has left, see RingSet.rest()."""
        self.asked = True
        if self.protocol_features and not self._may_disable:
            for ring in self.rings:
                self.rings.stop(ring.index)
        else:
            self.rings.rest()
        return U64(self._offered)

    @property
    def _may_disable(self) -> bool:
        """Whether the front-end sends SET_VRING_ENABLE.

        User-mode Linux 7.2 does not: it negotiates protocol features, and then features without the bit for them. So
        when a driver leaves, it does not disable rings, and only asks for the features.
        """
        return self.features is None or features.has(self.features, protocol_features.F_PROTOCOL_FEATURES)

    def _set_features(self, payload: U64, _message: Received) -> None:
        self._choose_features(payload.value)
        self._chosen(payload.value)
        if not features.has(payload.value, protocol_features.F_PROTOCOL_FEATURES):
            # Such a front-end sends no SET_VRING_ENABLE. With the bit, rings that are enabled already stay so.
            self.rings.set_all_enabled(True)
        self._tell_troubles(self.rings.start_pending())

    def _get_protocol_features(self, _payload: Nothing, _message: Received) -> U64:
        return U64(self._offered_protocol_features)

    def _set_protocol_features(self, payload: U64, _message: Received) -> None:
        if unknown := payload.value & ~self._offered_protocol_features:
            raise ProtocolError(f"{' '.join(protocol_features.protocol_names(unknown))} not offered")
        self.protocol_features = payload.value

    def _set_owner(self, _payload: Nothing, _message: Received) -> None:
        """The connection owns the port already."""
        self.owned = True

    def _reset_owner(self, _payload: Nothing, _message: Received) -> None:
        self.rings.set_all_enabled(False)

    def _get_queue_num(self, _payload: Nothing, _message: Received) -> U64:
        return U64(self._port.queue_pairs)

    def _net_set_mtu(self, payload: U64, _message: Received) -> None:
        self.config.check_mtu(payload.value)
        self.mtu = payload.value

    def _get_config(self, payload: DeviceConfig, _message: Received) -> AnyPayload:
        data = self.config.read(payload.offset, len(payload.data), self.mtu)
        return Nothing() if data is None else DeviceConfig(payload.offset, payload.flags, data)

    def _set_config(self, payload: DeviceConfig, _message: Received) -> None:
        self.config.write(payload.offset, payload.data, payload.flags, self.features)

    def _set_status(self, payload: U64, _message: Received) -> None:
        if payload.value > MOST_STATUS:
            raise ProtocolError(f"device status {payload.value:#x} is wider than a byte")
        if payload.value == 0:
            # A reset of the device by its driver (virtio 1.2, section 2.1). Whether rings are enabled is vhost-user's
            # own state, and front-ends do not repeat it after this; the memory stays too.
            self._reset()
        self.status = payload.value

    def _get_status(self, _payload: Nothing, _message: Received) -> U64:
        return U64(self.status or 0)

    def _reset_device(self, _payload: Nothing, _message: Received) -> None:
        self._reset()
        self.rings.set_all_enabled(False)
        self.status = 0

    def _reset(self) -> None:
        self.rings.reset()
        self.features = None

    # Memory

    def _met(self, files: Sequence[tuple[int, int]]) -> None:
        self._meets(files)

    def _set_mem_table(self, payload: MemoryTable, message: Received) -> None:
        if len(message.fds) != len(payload.regions):
            raise ProtocolError(f"{len(payload.regions)} regions with {len(message.fds)} file descriptors")
        self.shared = True
        self._memory_changed(self.memory.replace(payload.regions, message.fds))

    def _get_max_mem_slots(self, _payload: Nothing, _message: Received) -> U64:
        return U64(MAX_SLOTS)

    def _add_mem_reg(self, payload: SingleRegion, message: Received) -> None:
        if not message.fds:
            raise ProtocolError("no file descriptor for the region")
        self.shared = True
        self._memory_changed(self.memory.add(payload.region, message.fds[0]))

    def _rem_mem_reg(self, payload: SingleRegion, _message: Received) -> None:
        self._memory_changed(self.memory.remove(payload.region))

    def _set_log_base(self, _payload: LogBase, _message: Received) -> None:
        """Ignored: LOG_ALL is not offered. The request has a reply of its own only with LOG_SHMFD."""

    def _set_log_fd(self, _payload: Nothing, _message: Received) -> None:
        """Ignored; handle() closes the file descriptor."""

    # Rings

    def _set_vring_num(self, payload: VringState, _message: Received) -> None:
        self.rings.set_size(payload.index, payload.num)

    def _set_vring_addr(self, payload: VringAddr, _message: Received) -> None:
        self.rings.set_addresses(payload)

    def _set_vring_base(self, payload: VringState, _message: Received) -> None:
        self.rings.set_base(payload.index, payload.num)

    def _get_vring_base(self, payload: VringState, _message: Received) -> Callable[[], VringState]:
        self.rings.stop(payload.index)
        return lambda: VringState(payload.index, self.rings.base(payload.index))

    def _set_vring_kick(self, payload: VringFd, message: Received) -> None:
        self.rings.set_kick(payload.index, self._ring_fd("kick", payload, message))

    def _set_vring_call(self, payload: VringFd, message: Received) -> None:
        self.rings.set_call(payload.index, self._ring_fd("call", payload, message))

    def _set_vring_err(self, payload: VringFd, message: Received) -> None:
        self.rings.set_err(payload.index, self._ring_fd("err", payload, message))

    def _ring_fd(self, what: str, payload: VringFd, message: Received) -> int:
        """The message's file descriptor, checked; the caller owns it. -1 where the message says that none comes."""
        ring: ConfiguredRing = self.rings[payload.index]
        if payload.no_fd == bool(message.fds):
            raise ProtocolError(
                f"ring {ring.index}: {len(message.fds)} file descriptors, the payload says {int(not payload.no_fd)}"
            )
        if payload.no_fd:
            return -1
        eventfd.check(message.fds[0], f"ring {ring.index}: {what}", or_socket=what != "kick")
        if what != "kick":  # a kick eventfd is never written, and only read in ways that do not block
            eventfd.unblock(message.fds[0])
        return message.take_fd()

    def _set_vring_enable(self, payload: VringState, _message: Received) -> None:
        if payload.num > 1:
            raise ProtocolError(f"ring {payload.index}: enable is 0 or 1, not {payload.num}")
        self.rings.set_enabled(payload.index, bool(payload.num))


class RequestRow(NamedTuple):
    """How one request is handled. replies: it has a reply of its own, so it never gets an acknowledgement as well.

    A handler whose reply is known only after the change has taken effect returns a function.
    """

    handler: Callable[[Session, Any, Received], AnyPayload | Callable[[], AnyPayload] | None]
    payload: type[AnyPayload]
    most_fds: int = 0
    replies: bool = False


HANDLERS: dict[int, RequestRow] = {
    Request.GET_FEATURES: RequestRow(Session._get_features, Nothing, replies=True),
    Request.SET_FEATURES: RequestRow(Session._set_features, U64),
    Request.SET_OWNER: RequestRow(Session._set_owner, Nothing),
    Request.RESET_OWNER: RequestRow(Session._reset_owner, Nothing),
    Request.SET_MEM_TABLE: RequestRow(Session._set_mem_table, MemoryTable, most_fds=8),
    Request.SET_LOG_BASE: RequestRow(Session._set_log_base, LogBase, most_fds=1),
    Request.SET_LOG_FD: RequestRow(Session._set_log_fd, Nothing, most_fds=1),
    Request.SET_VRING_NUM: RequestRow(Session._set_vring_num, VringState),
    Request.SET_VRING_ADDR: RequestRow(Session._set_vring_addr, VringAddr),
    Request.SET_VRING_BASE: RequestRow(Session._set_vring_base, VringState),
    Request.GET_VRING_BASE: RequestRow(Session._get_vring_base, VringState, replies=True),
    Request.SET_VRING_KICK: RequestRow(Session._set_vring_kick, VringFd, most_fds=1),
    Request.SET_VRING_CALL: RequestRow(Session._set_vring_call, VringFd, most_fds=1),
    Request.SET_VRING_ERR: RequestRow(Session._set_vring_err, VringFd, most_fds=1),
    Request.GET_PROTOCOL_FEATURES: RequestRow(Session._get_protocol_features, Nothing, replies=True),
    Request.SET_PROTOCOL_FEATURES: RequestRow(Session._set_protocol_features, U64),
    Request.GET_QUEUE_NUM: RequestRow(Session._get_queue_num, Nothing, replies=True),
    Request.SET_VRING_ENABLE: RequestRow(Session._set_vring_enable, VringState),
    Request.NET_SET_MTU: RequestRow(Session._net_set_mtu, U64),
    Request.GET_CONFIG: RequestRow(Session._get_config, DeviceConfig, replies=True),
    Request.SET_CONFIG: RequestRow(Session._set_config, DeviceConfig),
    Request.RESET_DEVICE: RequestRow(Session._reset_device, Nothing),
    Request.GET_MAX_MEM_SLOTS: RequestRow(Session._get_max_mem_slots, Nothing, replies=True),
    Request.ADD_MEM_REG: RequestRow(Session._add_mem_reg, SingleRegion, most_fds=1),
    Request.REM_MEM_REG: RequestRow(Session._rem_mem_reg, SingleRegion, most_fds=1),
    Request.SET_STATUS: RequestRow(Session._set_status, U64),
    Request.GET_STATUS: RequestRow(Session._get_status, Nothing, replies=True),
}
