"""Payloads that vhost-user ("Message Specification") and the kernel's vhost (uapi/linux/vhost.h) have in common.

Syntax only. All numbers are in the machine's native byte order. Callers check the number of bytes before they decode.
"""

from __future__ import annotations

import builtins
import struct
from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class U64:
    """The specification's "A single 64-bit integer"."""

    value: int
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=Q")
    LEAST: ClassVar[int] = 8
    MOST: ClassVar[int] = 8

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*cls.FORMAT.unpack(data))

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.value)


@dataclass(frozen=True, slots=True)
class VringState:
    """The specification's "A vring state description"; for a split ring also "A vring descriptor index"."""

    index: int
    num: int
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=II")
    LEAST: ClassVar[int] = 8
    MOST: ClassVar[int] = 8

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*cls.FORMAT.unpack(data))

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.index, self.num)


@dataclass(frozen=True, slots=True)
class VringAddr:
    """The specification's "A vring address description": front-end virtual addresses, and the log's guest address."""

    index: int
    flags: int
    desc_user_addr: int
    used_user_addr: int
    avail_user_addr: int
    log_guest_addr: int
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=IIQQQQ")
    LEAST: ClassVar[int] = 40
    MOST: ClassVar[int] = 40

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*cls.FORMAT.unpack(data))

    def encode(self) -> bytes:
        return self.FORMAT.pack(
            self.index, self.flags, self.desc_user_addr, self.used_user_addr, self.avail_user_addr, self.log_guest_addr
        )


@dataclass(frozen=True, slots=True)
class SharedRegion:
    """The specification's "Memory region description"."""

    guest_addr: int
    bytes: int
    user_addr: int
    mmap_offset: int
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QQQQ")

    def encode(self) -> builtins.bytes:
        return self.FORMAT.pack(self.guest_addr, self.bytes, self.user_addr, self.mmap_offset)
