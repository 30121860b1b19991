"""Messages: bytes to messages and back, syntax only. vhost-user, "Message Specification".

Nothing here knows what is legal when; that is session.py. All numbers are in the machine's native byte order, as the
specification has it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple, Protocol, Self

from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState

VERSION = 1
VERSION_MASK = 0x3
REPLY = 0x4
NEED_REPLY = 0x8

HEADER = struct.Struct("=III")
MAX_PAYLOAD = 4096
"""No known request has more than 268 bytes. An unknown one is read up to this size, so that it can be answered."""
MAX_FDS = 8
"""File descriptors in one message at the most: one per region of SET_MEM_TABLE."""
MAX_TABLE_REGIONS = 8


class MalformedError(ProtocolError):
    """Bytes that are no message, or no payload of their request."""


class Request(IntEnum):
    """Front-end message types: those we answer."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    NET_SET_MTU = 20
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


def request_name(request: int) -> str:
    """As the specification calls it, or its number."""
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"


class Header(NamedTuple):
    """The twelve bytes before every payload. vhost-user, "Header"."""

    request: int
    flags: int
    size: int

    @property
    def need_reply(self) -> bool:
        return bool(self.flags & NEED_REPLY)


def decode_header(data: bytes) -> Header:
    """The header of a request. Raises MalformedError, after which the rest of the stream cannot be read either."""
    request, flags, size = HEADER.unpack(data)
    name = request_name(request)
    if flags & VERSION_MASK != VERSION:
        raise MalformedError(f"{name} is of protocol version {flags & VERSION_MASK}, not {VERSION}")
    if flags & REPLY:
        raise MalformedError(f"{name} has the reply bit set, which only a back-end may")
    if size > MAX_PAYLOAD:
        raise MalformedError(f"{name} announces {size} bytes of payload, more than any message has ({MAX_PAYLOAD})")
    return Header(request, flags, size)


class Payload(Protocol):
    """A payload kind. Its encoding is between LEAST and MOST bytes; decode checks everything but that."""

    LEAST: ClassVar[int]
    MOST: ClassVar[int]

    @classmethod
    def decode(cls, data: bytes) -> Self: ...
    def encode(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """No payload."""

    LEAST: ClassVar[int] = 0
    MOST: ClassVar[int] = 0

    @classmethod
    def decode(cls, data: bytes) -> Self:  # noqa: ARG003
        return cls()

    def encode(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class VringFd:
    """The u64 of SET_VRING_KICK, _CALL and _ERR: bits 0-7 the ring, bit 8 "no file descriptor comes with this"."""

    index: int
    no_fd: bool
    LEAST: ClassVar[int] = 8
    MOST: ClassVar[int] = 8

    @classmethod
    def decode(cls, data: bytes) -> Self:
        value = U64.decode(data).value
        if value > 0x1FF:
            raise MalformedError(f"reserved bits are set beside the vring index: {value:#x}")
        return cls(value & 0xFF, bool(value & 0x100))

    def encode(self) -> bytes:
        return U64(self.index | self.no_fd << 8).encode()


@dataclass(frozen=True, slots=True)
class SingleRegion:
    """The specification's "Single memory region description": padding, then the region."""

    region: SharedRegion
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QQQQQ")
    LEAST: ClassVar[int] = 40
    MOST: ClassVar[int] = 40

    @classmethod
    def decode(cls, data: bytes) -> Self:
        _, *fields = cls.FORMAT.unpack(data)
        return cls(SharedRegion(*fields))

    def encode(self) -> bytes:
        return bytes(8) + self.region.encode()


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """The specification's "Multiple memory regions description". Some front-ends send room for eight always."""

    regions: tuple[SharedRegion, ...]
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=II")
    LEAST: ClassVar[int] = 8
    MOST: ClassVar[int] = 8 + MAX_TABLE_REGIONS * 32

    @classmethod
    def decode(cls, data: bytes) -> Self:
        n, _ = cls.FORMAT.unpack_from(data)
        if n > MAX_TABLE_REGIONS:
            raise MalformedError(f"{n} regions in one table, {MAX_TABLE_REGIONS} fit")
        if len(data) - 8 < n * 32:
            raise MalformedError(f"{n} regions announced in {len(data)} bytes, they need {8 + n * 32}")
        return cls(tuple(SharedRegion(*fields) for fields in SharedRegion.FORMAT.iter_unpack(data[8 : 8 + n * 32])))

    def encode(self) -> bytes:
        return self.FORMAT.pack(len(self.regions), 0) + b"".join(region.encode() for region in self.regions)


@dataclass(frozen=True, slots=True)
class LogBase:
    """The payload of SET_LOG_BASE, ignored. Front-ends differ: none, an address, or a "Log description"."""

    data: bytes
    LEAST: ClassVar[int] = 0
    MOST: ClassVar[int] = 16

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) % 8:
            raise MalformedError(f"a log description of {len(data)} bytes")
        return cls(data)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """The specification's "Virtio device config space": offset, size, flags, and the bytes."""

    offset: int
    flags: int
    data: bytes
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=III")
    LEAST: ClassVar[int] = 12
    MOST: ClassVar[int] = 12 + 256

    @classmethod
    def decode(cls, data: bytes) -> Self:
        offset, size, flags = cls.FORMAT.unpack_from(data)
        if size != len(data) - cls.FORMAT.size:
            raise MalformedError(f"{size} bytes of device configuration announced, {len(data) - cls.FORMAT.size} came")
        return cls(offset, flags, data[cls.FORMAT.size :])

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.offset, len(self.data), self.flags) + self.data


AnyPayload = DeviceConfig | Nothing | U64 | VringFd | VringState | VringAddr | SingleRegion | MemoryTable | LogBase


def decode_payload(kind: type[AnyPayload], data: bytes) -> AnyPayload:
    """Raises MalformedError when the bytes are no payload of this kind."""
    if not kind.LEAST <= len(data) <= kind.MOST:
        wanted = str(kind.MOST) if kind.LEAST == kind.MOST else f"{kind.LEAST} to {kind.MOST}"
        raise MalformedError(f"{len(data)} bytes of payload where {wanted} belong")
    return kind.decode(data)


def encode_request(request: int, payload: Payload | None = None, *, need_reply: bool = False) -> bytes:
    """A whole request, as a front-end sends it."""
    data = payload.encode() if payload is not None else b""
    return HEADER.pack(request, VERSION | (NEED_REPLY if need_reply else 0), len(data)) + data


def encode_reply(request: int, payload: Payload) -> bytes:
    """A whole reply, as a back-end sends it."""
    data = payload.encode()
    return HEADER.pack(request, VERSION | REPLY, len(data)) + data
