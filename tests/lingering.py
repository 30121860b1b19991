"""TCP sockets whose last close blocks for an hour: they have data to send that nobody reads. SO_LINGER, socket(7)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

HOUR = 3600


def _linger(sock: socket.socket, seconds: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))


@contextlib.contextmanager
def lingering(n: int) -> Iterator[list[socket.socket]]:
    """n such sockets. At the end of the block their peers reset them, so that blocked closes return."""
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:
        socks = []
        for _ in range(n):
            sock = stack.enter_context(socket.create_connection(listener.getsockname()))
            peer = stack.enter_context(listener.accept()[0])  # closed before it
            _linger(peer, 0)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send(bytes(1 << 16))
            sock.setblocking(True)
            _linger(sock, HOUR)
            socks.append(sock)
        yield socks
