"""An eventfd is signalled without waiting, however often somebody else makes its open file block and not block.

The kernel does that itself when a read is done that was handed to it (io_submit(2), IOCB_FLAG_RESFD): it adds one, and
does not look at O_NONBLOCK.
"""

from __future__ import annotations

import ctypes
import os
import struct

IO_SETUP, IO_SUBMIT, IO_GETEVENTS = 206, 209, 208
PREAD, RESFD = 0, 1
IOCB = struct.Struct("<QIiHhIQQqQII")
EVENT_BYTES = 32
LIBC = ctypes.CDLL(None, use_errno=True)


class Signaller:
    """Raises OSError where the kernel has no AIO for us."""

    def __init__(self) -> None:
        self._context = ctypes.c_ulong(0)
        self._nothing = os.memfd_create("nothing")
        self._call(IO_SETUP, 64, ctypes.byref(self._context))

    def signal(self, fd: int) -> bool:
        """Whether `fd` is an eventfd."""
        iocb = ctypes.create_string_buffer(IOCB.pack(0, 0, 0, PREAD, 0, self._nothing, 0, 0, 0, 0, RESFD, fd))
        try:
            self._call(IO_SUBMIT, self._context, 1, ctypes.byref(ctypes.pointer(iocb)))
        except OSError:
            return False
        events = ctypes.create_string_buffer(EVENT_BYTES)
        self._call(IO_GETEVENTS, self._context, 1, 1, events, None)
        return True

    @staticmethod
    def _call(number: int, *args: object) -> None:
        if LIBC.syscall(number, *args) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
