"""Files on a file system whose server stops answering, so that system calls on them block. FUSE, linux/fuse.h.

Run as a program, this file makes such a file system in namespaces of its own, so that it ends with the process, and
sends open files of it over its standard input, which is a socket. Silent starts that for a test.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bench.guests.waits import MAX_WAIT

FILE_BYTES = 1 << 20
_HEADER = struct.Struct("=IIQQIIIxxxx")
_LOOKUP, _GETATTR, _OPEN, _INIT = 1, 3, 14, 26
_ROOT, _FILE = 1, 2
_ENOSYS = 38
_MAJOR, _MINOR = 7, 31


class Silent:
    """Open files whose file system no longer answers. At the end of the block blocked calls get an error."""

    def __init__(self, files: int = 1, name: str = "file") -> None:
        self._place = tempfile.TemporaryDirectory()
        ours, theirs = socket.socketpair()
        # unshare: the user namespace is what lets anybody mount a file system.
        self._server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--user", "--map-root-user", "--mount",
             sys.executable, "-m", "tests.silent_files", f"{self._place.name}/{name}", str(files)],
            stdin=theirs, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        theirs.close()
        ours.settimeout(MAX_WAIT)
        self.fds = socket.recv_fds(ours, 1, files)[1]
        ours.close()
        assert len(self.fds) == files

    def __enter__(self) -> list[int]:
        return self.fds

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait(MAX_WAIT)
        for fd in self.fds:
            with contextlib.suppress(OSError):  # the process has ended already
                os.close(fd)
        self._place.cleanup()


def _attributes(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == _ROOT else (0o100600, FILE_BYTES)
    return struct.pack("=6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _answer(opcode: int, node: int) -> bytes | None:
    """The body of an answer; None: not implemented.

    Answers say that they must not be cached, so each look asks again.
    """
    if opcode == _INIT:
        return struct.pack("=4IHHIIHHI7I", _MAJOR, _MINOR, 0, 0, 0, 0, 4096, 1, 0, 0, 0, *[0] * 7)
    if opcode == _LOOKUP:
        return struct.pack("=4QII", _FILE, 1, 0, 0, 0, 0) + _attributes(_FILE)
    if opcode == _GETATTR:
        return struct.pack("=QII", 0, 0, 0) + _attributes(node)
    if opcode == _OPEN:
        return struct.pack("=QII", 1, 0, 0)
    return None


def _serve(device: int, silent: threading.Event) -> None:
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if silent.is_set():
            continue
        rest = _answer(opcode, node)
        body = b"" if rest is None else rest
        os.write(device, struct.pack("=IiQ", 16 + len(body), -_ENOSYS if rest is None else 0, unique) + body)


def _open(path: str, files: int, server: socket.socket) -> None:
    """In another process than the server: a process that waits for its own answer could not even be killed."""
    fds = [os.open(path, os.O_RDWR) for _ in range(files)]
    server.send(b"opened")
    server.recv(8)
    socket.socket(fileno=0).sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def main(path: str, files: int) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if ctypes.CDLL(None, use_errno=True).mount(b"silent", bytes(Path(path).parent), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        os.close(device)
        _open(path, files, theirs)
        os._exit(0)
    silent = threading.Event()
    threading.Thread(target=_serve, args=(device, silent), daemon=True).start()
    ours.recv(8)
    silent.set()
    ours.send(b"go on")
    threading.Event().wait(300)  # it is killed before


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
