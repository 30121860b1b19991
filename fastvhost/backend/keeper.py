"""fwd's side of the keeper, the process that closes the files of front-ends last: what it keeps, and when it closes.

The keeper is forked before the first thread and the first socket, and ends when fwd has ended, however that ends. A
program that serves a port without a keeper (VhostUserService) closes files itself.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from fastvhost.backend import keeper_process
from fastvhost.backend.keeper_process import CROWDED, HEADER, KEEP, KEY, LET_GO, MOST_FDS

log = logging.getLogger("fastvhost")

MOST = MOST_FDS
"""Held with one call."""
ROOM_WITHIN = 0.05
"""Seconds that a port waits where the keeper has fallen behind. Then a *foreign-file* thread closes its files."""
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Keeper:
    """The socket to the keeper. Any thread may use it; nothing here waits longer than ROOM_WITHIN."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.pid = pid
        self._sock = sock
        self._lock = threading.Lock()
        self._keys = itertools.count(1)
        self._unsaid: deque[int] = deque()
        self._crowded: set[int] = set()
        self.gone = False

    def keep(self, port: int, fds: Sequence[int]) -> list[int]:
        """Have the keeper duplicate each. Returns a key for each, or no key where it cannot."""
        if self.gone or not fds:
            return []
        keys = [next(self._keys) for _ in fds]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        message = HEADER.pack(KEEP, port) + b"".join(map(KEY.pack, keys))
        for last in (False, True):
            with self._lock:
                self._catch_up()
                try:
                    if not self.gone and not self._unsaid:
                        self._sock.sendmsg([message], rights, _NOW)
                        return keys
                except BlockingIOError:
                    pass
                except OSError as error:  # too many descriptors in flight (ETOOMANYREFS), or it ended
                    self._failed(error)
                    return []
            if self.gone or last:
                break
            poller = select.poll()
            poller.register(self._sock, select.POLLOUT)
            poller.poll(ROOM_WITHIN * 1000)
        return []

    def let_go(self, keys: Sequence[int]) -> None:
        """Have the keeper close its duplicates, now that fwd has closed its own."""
        if keys and not self.gone:
            with self._lock:
                self._unsaid.extend(keys)
                self._catch_up()

    def crowded(self, port: int) -> bool:
        """Whether too many files that this port received cannot be closed."""
        return port in self._crowded

    def look(self) -> None:
        """To be called now and then: sends what could not be sent at once, and notices that the keeper ended."""
        with self._lock:
            self._catch_up()

    def close(self) -> None:
        """Closes the socket, so that the keeper closes everything and ends."""
        with self._lock:
            self.gone = True
            self._sock.close()

    def _catch_up(self) -> None:
        """Receive the keeper's messages, and send those that wait. With the lock held."""
        try:
            while not self.gone:
                answer = self._sock.recv(HEADER.size, socket.MSG_DONTWAIT)
                if not answer:
                    raise ConnectionResetError("its end of the socket is closed")
                what, port = HEADER.unpack(answer)
                (self._crowded.add if what == CROWDED else self._crowded.discard)(port)
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(error)
        while self._unsaid and not self.gone:
            part = list(itertools.islice(self._unsaid, MOST))
            try:
                self._sock.send(HEADER.pack(LET_GO, 0) + b"".join(map(KEY.pack, part)), _NOW)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            for _ in part:
                self._unsaid.popleft()

    def _failed(self, error: OSError) -> None:
        if not isinstance(error, ConnectionError) or self.gone:  # BrokenPipeError is one
            return
        self.gone = True
        self._unsaid.clear()
        self._crowded.clear()
        with contextlib.suppress(OSError):
            os.waitpid(self.pid, os.WNOHANG)
        log.error(
            "the helper process %d (fv-keeper) is gone, somebody killed it: files of front-ends are closed in place "
            "from now on, and can hold up their port and the end of fwd; start fwd again when the guests allow it",
            self.pid,
        )


_keeper: Keeper | None = None


def running() -> Keeper | None:
    """The keeper of this process, while it lives."""
    return _keeper if _keeper is not None and not _keeper.gone else None


@contextlib.contextmanager
def started() -> Iterator[Keeper | None]:
    """Fork the keeper.

    To be called before the first thread, and before there are descriptors that it must not inherit.
    """
    global _keeper
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
        log.warning("no helper process can be made (%s): files of front-ends are closed in place", error.strerror)
        yield None
        return
    if pid == 0:
        try:
            ours.close()
            keeper_process.main(theirs)
        finally:
            os._exit(0)
    theirs.close()
    _keeper = keeper = Keeper(ours, pid)
    try:
        yield keeper
    finally:
        _keeper = None
        keeper.close()
