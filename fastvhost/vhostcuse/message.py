"""The kernel's requests to a character device in user space, and their answers. Linux, include/uapi/linux/fuse.h.

Decodes requests and encodes answers: syntax only, no state, no file. CUSE is FUSE's protocol 7.12 and later for a
device file. Headers come from the kernel and are trusted; the data of an ioctl comes from its caller and is not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

MAJOR, MINOR = 7, 31
"""The protocol we speak. The kernel's minor number may be another; nothing here differs between them."""
LEAST_MINOR = 12
"""The first minor version of FUSE's protocol 7 that has CUSE."""
UNRESTRICTED_IOCTL = 1
"""cuse_init_out.flags: an ioctl comes without data first, and a retry asks for parts of the caller's memory."""
MAX_TRANSFER = 1 << 16
"""max_read and max_write. The device is never read or written; the kernel requires buffers this large."""
READ_BYTES = 1 << 17
"""A buffer for one request: the kernel refuses one that max_write and headers do not fit in."""
MAX_NAME = 63


class Opcode(IntEnum):
    """fuse_in_header.opcode."""

    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    CUSE_INIT = 4096


class IoctlFlag(IntEnum):
    """fuse_ioctl_in.flags and fuse_ioctl_out.flags."""

    COMPAT = 1
    UNRESTRICTED = 2
    RETRY = 4
    IS_32BIT = 8
    COMPAT_X32 = 32


OTHER_ABI = IoctlFlag.COMPAT | IoctlFlag.IS_32BIT | IoctlFlag.COMPAT_X32
"""The caller's pointers or structures are not those of a 64-bit program."""

_IN = struct.Struct("=IIQQIIII")  # fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, padding
_OUT = struct.Struct("=IiQ")  # fuse_out_header: len, error, unique
_INIT_IN = struct.Struct("=IIII")  # cuse_init_in: major, minor, unused, flags
_INIT_OUT = struct.Struct("=IIIIIIII40x")  # cuse_init_out: .., max_read, max_write, dev_major, dev_minor, spare
_OPEN_OUT = struct.Struct("=QII")  # fuse_open_out: fh, open_flags, padding
_RELEASE_IN = struct.Struct("=QIIQ")  # fuse_release_in: fh, flags, release_flags, lock_owner
_IOCTL_IN = struct.Struct("=QIIQII")  # fuse_ioctl_in: fh, flags, cmd, arg, in_size, out_size
_IOCTL_OUT = struct.Struct("=iIII")  # fuse_ioctl_out: result, flags, in_iovs, out_iovs
_IOVEC = struct.Struct("=QQ")  # fuse_ioctl_iovec: base, len


class MalformedRequestError(ValueError):
    """Not a request of this protocol."""


class CuseRequest(NamedTuple):
    """Any request: its opcode, its number for the answer, and the thread that called."""

    opcode: int
    unique: int
    thread: int
    """As our pid namespace numbers it; 0 when it has no number there."""
    body: bytes


class Ioctl(NamedTuple):
    """FUSE_IOCTL. data: in_size bytes of the caller's memory."""

    handle: int
    flags: int
    command: int
    argument: int
    data: bytes
    out_size: int


def decode_request(data: bytes) -> CuseRequest:
    """One read() of the device. Raises MalformedRequestError."""
    if len(data) < _IN.size:
        raise MalformedRequestError(f"{len(data)} bytes where a header of {_IN.size} belongs")
    length, opcode, unique, _node, _uid, _gid, pid, _ = _IN.unpack_from(data)
    if length != len(data):
        raise MalformedRequestError(f"a request of {len(data)} bytes says that it has {length}")
    return CuseRequest(opcode, unique, pid, data[_IN.size :])


def decode_init(body: bytes) -> tuple[int, int]:
    """The protocol version of the kernel, major and minor. Raises MalformedRequestError where it is not supported."""
    if len(body) < _INIT_IN.size:
        raise MalformedRequestError(f"{len(body)} bytes where cuse_init_in has {_INIT_IN.size}")
    major, minor, _, _flags = _INIT_IN.unpack_from(body)
    if major != MAJOR or minor < LEAST_MINOR:
        raise MalformedRequestError(f"the kernel speaks FUSE {major}.{minor}, fwd {MAJOR}.{MINOR}")
    return major, minor


def decode_release(body: bytes) -> int:
    """The handle of the open file that is gone."""
    if len(body) < _RELEASE_IN.size:
        raise MalformedRequestError(f"{len(body)} bytes where fuse_release_in has {_RELEASE_IN.size}")
    handle: int = _RELEASE_IN.unpack_from(body)[0]
    return handle


def decode_ioctl(body: bytes) -> Ioctl:
    """Raises MalformedRequestError where the data does not have the length that its header says."""
    if len(body) < _IOCTL_IN.size:
        raise MalformedRequestError(f"{len(body)} bytes where fuse_ioctl_in has {_IOCTL_IN.size}")
    handle, flags, command, argument, in_size, out_size = _IOCTL_IN.unpack_from(body)
    data = body[_IOCTL_IN.size :]
    if len(data) != in_size:
        raise MalformedRequestError(f"an ioctl with {len(data)} bytes of data says that it has {in_size}")
    return Ioctl(handle, flags, command, argument, data, out_size)


def _answer(unique: int, error: int, body: bytes = b"") -> bytes:
    return _OUT.pack(_OUT.size + len(body), -error, unique) + body


def encode_error(unique: int, error: int) -> bytes:
    """error: an errno, positive; 0 for success without a body."""
    return _answer(unique, error)


def encode_init(unique: int, name: str, major: int = 0, minor: int = 0) -> bytes:
    """Answers CUSE_INIT: the device's name and numbers. major 0: the kernel chooses the numbers."""
    word = name.encode("ascii")
    if not 0 < len(word) <= MAX_NAME or b"\0" in word or b"/" in word:
        raise ValueError(f"{name!r} is no device's name")
    body = _INIT_OUT.pack(MAJOR, MINOR, 0, UNRESTRICTED_IOCTL, MAX_TRANSFER, MAX_TRANSFER, major, minor)
    return _answer(unique, 0, body + b"DEVNAME=" + word + b"\0")


def encode_open(unique: int, handle: int) -> bytes:
    """Answers an open: later requests name the file by this handle."""
    return _answer(unique, 0, _OPEN_OUT.pack(handle, 0, 0))


def encode_ioctl(unique: int, data: bytes = b"") -> bytes:
    """An ioctl that succeeded, with what is to be written into the caller's memory."""
    return _answer(unique, 0, _IOCTL_OUT.pack(0, 0, 0, 0) + data)


def encode_retry(unique: int, reads: Sequence[tuple[int, int]], writes: Sequence[tuple[int, int]]) -> bytes:
    """Ask for parts of the caller's memory, (address, bytes): to read now, and to write with the answer."""
    iovecs = b"".join(_IOVEC.pack(*one) for one in (*reads, *writes))
    return _answer(unique, 0, _IOCTL_OUT.pack(0, IoctlFlag.RETRY, len(reads), len(writes)) + iovecs)
