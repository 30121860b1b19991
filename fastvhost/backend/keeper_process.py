"""The keeper: the process that closes the files of front-ends last, so that fwd never does. Forked by `keeper`.

The last close of a file may wait for a lock that another program holds (an epoll that watches an eventfd, the other end
of a pipe) for as long as that program likes; so may the exit of a process that has it open. So this process keeps a
duplicate of each such file. Told to let go of one, it passes it to a *closer*, a child that closes it. Where that
blocks, another child takes over, up to a few for each port.

The keeper closes its duplicate while the child has one, and only then may the child close: so the keeper never blocks.

Closers are forked by another process, the *forker*, which never has any of these files: a child of the keeper's would
begin with all that it keeps, also those of other ports, and would have to close them first.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections import deque

HEADER = struct.Struct("<cI")
"""What to do, and the port's number (0 for LET_GO). Keys follow."""
KEY = struct.Struct("<Q")
KEEP, LET_GO = b"K", b"L"
CROWDED, ROOM = b"C", b"R"
MOST_FDS = 253
"""With one message: SCM_MAX_FD."""
MOST_BYTES = HEADER.size + MOST_FDS * KEY.size

STUCK_AFTER = 0.02
"""Seconds after which a closer counts as stuck, and another one takes over."""
CLOSERS_OF_A_PORT = 4
MOST_CLOSERS = 256
BATCH = 16
"""Files handed to a closer at once, all of one port. One that blocks keeps the rest of its batch waiting."""
CROWD, LESS = 256, 64
"""Files of one port that wait behind stuck closers. Beyond CROWD its front-ends may send no more, below LESS again."""
MOST_WAITING = 1024
"""The same as CROWD where no closer is stuck and this process is only slow.

A guest of 128 queue pairs leaves 768 files.
"""

_ANCILLARY = socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)


def main(front: socket.socket) -> None:
    """What the keeper does from fork to exit. front: the socket to fwd, a SOCK_SEQPACKET."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # it ends when fwd has ended, and not before
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # closers that end leave nothing behind
    with contextlib.suppress(OSError):
        os.chdir("/")
    front = _alone_with(front, 3)
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:  # noqa: PTH123
        comm.write("fv-keeper")
    _Keeper(front, _start_forker(front)).run()


def _start_forker(front: socket.socket) -> socket.socket:
    """The socket to a new forker. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            front.close()
            ours.close()
            _fork_when_asked(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _fork_when_asked(keeper: socket.socket) -> None:
    """What the forker does: for each byte a closer, and the socket to it; or no socket where none can be made."""
    while keeper.recv(1):
        rights: list[tuple[int, int, array.array[int]]] = []
        with contextlib.suppress(OSError):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                if os.fork() == 0:
                    try:
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        _close_what_comes(_alone_with(theirs, 3))
                    finally:
                        os._exit(0)
                rights.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()])))
                keeper.sendmsg([b"c"], rights)
        if not rights:
            keeper.send(b"n")


def _alone_with(sock: socket.socket, number: int) -> socket.socket:
    """Close all others, also the standard streams: their readers must see the end of file when fwd has ended."""
    if sock.fileno() != number:
        os.dup2(sock.fileno(), number)
        sock.detach()
    else:
        sock.detach()
    null = -1
    with contextlib.suppress(OSError):
        null = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):
        with contextlib.suppress(OSError):
            os.dup2(null, stream) if null >= 0 else os.close(stream)
    os.closerange(number + 1, os.sysconf("SC_OPEN_MAX"))
    return socket.socket(fileno=number)


class _Closer:
    """A process that closes files. Busy from the start, until it says that it is there."""

    def __init__(self, forker: socket.socket) -> None:
        """Raises BlockingIOError where the system has no room for one, ConnectionError where the forker is gone."""
        forker.send(b"c")
        data, fds = _receive(forker)
        if not data:
            raise ConnectionResetError("the forker is gone")
        if not fds:
            raise BlockingIOError("no process can be made")
        self.sock = socket.socket(fileno=fds[0])
        self.port = 0
        self.busy_since: float | None = time.monotonic()

    def give(self, port: int, fds: list[int]) -> None:
        """Send the files, close ours, then tell the child to close its own. Raises OSError."""
        self.sock.sendmsg([b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        for fd in fds:
            os.close(fd)
        fds.clear()
        self.port, self.busy_since = port, time.monotonic()
        self.sock.send(b"g")


def _close_what_comes(sock: socket.socket) -> None:
    sock.send(b"d")
    while True:
        _, fds = _receive(sock)
        if not fds or not sock.recv(1):
            return
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        sock.send(b"d")


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = sock.recvmsg(MOST_BYTES, _ANCILLARY)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    return data, list(fds)


class _Keeper:
    def __init__(self, front: socket.socket, forker: socket.socket) -> None:
        self._front = front
        self._forker = forker
        self._kept: dict[int, tuple[int, int]] = {}
        """Key to (port, file descriptor)."""
        self._queues: dict[int, deque[int]] = {}
        self._closers: list[_Closer] = []
        self._crowded: set[int] = set()
        self._ended = False

    def run(self) -> None:
        while not (self._ended and not self._queues):
            self._wait()
            self._hand_out()
            self._tell()

    def _wait(self) -> None:
        poller = select.poll()
        if not self._ended:
            poller.register(self._front, select.POLLIN)
        for closer in self._closers:
            if closer.busy_since is not None:
                poller.register(closer.sock, select.POLLIN)
        ready = dict(poller.poll(STUCK_AFTER * 1000 if self._queues else None))
        for closer in list(self._closers):
            if closer.sock.fileno() in ready:
                self._done(closer)
        if self._front.fileno() in ready:
            self._take()

    def _done(self, closer: _Closer) -> None:
        with contextlib.suppress(OSError):
            if closer.sock.recv(1):
                closer.busy_since = None
                if all(other.busy_since is not None for other in self._closers if other is not closer):
                    return
        self._drop(closer)  # it ended, or there is an idle one already

    def _drop(self, closer: _Closer) -> None:
        closer.sock.close()
        self._closers.remove(closer)

    def _take(self) -> None:
        """Take one message of fwd. Where fwd has ended, let go of every file."""
        try:
            data, fds = _receive(self._front)
        except OSError:
            data, fds = b"", []
        if len(data) < HEADER.size:
            self._ended = True
            keys = list(self._kept)
        else:
            what, port = HEADER.unpack_from(data)
            keys = [key for (key,) in KEY.iter_unpack(data[HEADER.size :])]
            if what == KEEP:
                self._kept.update((key, (port, fd)) for key, fd in zip(keys, fds, strict=False))
                return
        for key in keys:
            if key in self._kept:
                port, fd = self._kept.pop(key)
                self._queues.setdefault(port, deque()).append(fd)

    def _hand_out(self) -> None:
        for port, queue in list(self._queues.items()):
            while queue and self._may_have_another(port):
                closer = self._idle()
                if closer is None:
                    return
                batch = [queue.popleft() for _ in range(min(len(queue), MOST_FDS if self._ended else BATCH))]
                try:
                    closer.give(port, batch)
                except OSError:  # somebody killed it
                    queue.extendleft(reversed(batch))
                    self._drop(closer)
            if not queue:
                del self._queues[port]
            else:  # moved to the end: the next time another port is served first
                self._queues[port] = self._queues.pop(port)

    def _may_have_another(self, port: int) -> bool:
        return self._ended or sum(one.port == port and one.busy_since is not None for one in self._closers) < (
            CLOSERS_OF_A_PORT
        )

    def _idle(self) -> _Closer | None:
        """A closer that has nothing to do.

        None: wait, one may be done soon or is being made, or there can be no more.
        """
        now = time.monotonic()
        for closer in self._closers:
            if closer.busy_since is None:
                return closer
        if any(now - (closer.busy_since or now) < STUCK_AFTER for closer in self._closers):
            return None
        if len(self._closers) < MOST_CLOSERS or self._ended:
            with contextlib.suppress(BlockingIOError):
                self._closers.append(_Closer(self._forker))
        return None  # not before it says that it is there

    def _tell(self) -> None:
        """Tell fwd which ports have too many files that are not closed, and which no longer have."""
        for port, queue in self._queues.items():
            most = MOST_WAITING if self._may_have_another(port) else CROWD
            if port not in self._crowded and len(queue) > most and self._said(CROWDED, port):
                self._crowded.add(port)
        for port in list(self._crowded):
            if len(self._queues.get(port, ())) < LESS and self._said(ROOM, port):
                self._crowded.discard(port)

    def _said(self, what: bytes, port: int) -> bool:
        try:
            self._front.send(HEADER.pack(what, port), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True
