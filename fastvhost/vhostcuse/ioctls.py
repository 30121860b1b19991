"""vhost-net's ioctls: numbers and payloads. Linux, include/uapi/linux/vhost.h.

The payloads that vhost-user took over unchanged are those of backend/payload.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.memory import MAX_SLOTS
from fastvhost.backend.payload import SharedRegion

_TYPE = 0xAF
_WRITE, _READ = 1, 2  # as linux/ioctl.h says it: the caller writes, reads


def _number(direction: int, number: int, bytes: int) -> int:
    return direction << 30 | bytes << 16 | _TYPE << 8 | number


class IoctlNumber(IntEnum):
    """All ioctls of Linux before 6.5."""

    GET_FEATURES = _number(_READ, 0x00, 8)
    SET_FEATURES = _number(_WRITE, 0x00, 8)
    SET_OWNER = _number(0, 0x01, 0)
    RESET_OWNER = _number(0, 0x02, 0)
    SET_MEM_TABLE = _number(_WRITE, 0x03, 8)
    SET_LOG_BASE = _number(_WRITE, 0x04, 8)
    SET_LOG_FD = _number(_WRITE, 0x07, 4)
    SET_VRING_NUM = _number(_WRITE, 0x10, 8)
    SET_VRING_ADDR = _number(_WRITE, 0x11, 40)
    SET_VRING_BASE = _number(_WRITE, 0x12, 8)
    GET_VRING_BASE = _number(_READ | _WRITE, 0x12, 8)
    SET_VRING_ENDIAN = _number(_WRITE, 0x13, 8)
    GET_VRING_ENDIAN = _number(_WRITE, 0x14, 8)
    SET_VRING_KICK = _number(_WRITE, 0x20, 8)
    SET_VRING_CALL = _number(_WRITE, 0x21, 8)
    SET_VRING_ERR = _number(_WRITE, 0x22, 8)
    SET_VRING_BUSYLOOP_TIMEOUT = _number(_WRITE, 0x23, 8)
    GET_VRING_BUSYLOOP_TIMEOUT = _number(_WRITE, 0x24, 8)
    SET_BACKEND_FEATURES = _number(_WRITE, 0x25, 8)
    GET_BACKEND_FEATURES = _number(_READ, 0x26, 8)
    NET_SET_BACKEND = _number(_WRITE, 0x30, 8)


def command_name(command: int) -> str:
    """As vhost.h calls it, or its number."""
    try:
        return f"VHOST_{IoctlNumber(command).name}"
    except ValueError:
        return f"ioctl {command:#010x}"


@dataclass(frozen=True, slots=True)
class VringFile:
    """struct vhost_vring_file: a ring, and a file descriptor of the calling process; -1: none."""

    index: int
    fd: int
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=Ii")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*cls.FORMAT.unpack(data))

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.index, self.fd)


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """struct vhost_memory: regions, each with a field for flags in the place of vhost-user's mmap offset."""

    regions: tuple[SharedRegion, ...]
    HEADER: ClassVar[struct.Struct] = struct.Struct("=II")
    REGION: ClassVar[struct.Struct] = struct.Struct("=QQQQ")

    @classmethod
    def whole(cls, header: bytes) -> int:
        """The bytes of the whole table, given its header. Raises ProtocolError where it has too many regions."""
        n, _ = cls.HEADER.unpack_from(header)
        if n > MAX_SLOTS:
            raise ProtocolError(f"{n} regions in one table, {MAX_SLOTS} fit")
        return cls.HEADER.size + int(n) * cls.REGION.size

    @classmethod
    def decode(cls, data: bytes) -> Self:
        regions = cls.REGION.iter_unpack(data[cls.HEADER.size :])
        return cls(tuple(SharedRegion(guest, size, user, 0) for guest, size, user, _flags in regions))

    def encode(self) -> bytes:
        body = b"".join(self.REGION.pack(r.guest_addr, r.bytes, r.user_addr, 0) for r in self.regions)
        return self.HEADER.pack(len(self.regions), 0) + body
