"""The front-end half of the built-in guests, against a back-end that is a script: its requests, and its errors."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.backend.payload import U64, SharedRegion, VringState
from fastvhost.driver.frontend import Feature, FrontEnd, GuestsError
from fastvhost.vhostuser.message import HEADER, Request, encode_reply

ALL = Feature.MRG_RXBUF | Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.PROTOCOL_FEATURES | Feature.VERSION_1


class ScriptedBackEnd:
    """Answers requests as told and remembers them."""

    def __init__(self, *, features: int = ALL, protocol_features: int = 8, refuse: int = 0) -> None:
        self.features, self.protocol_features, self.refuse = features, protocol_features, refuse
        self.said: list[tuple[Request, bytes, int]] = []
        self.hang_up_at: Request | None = None
        self.answer_to: Callable[[Request], bytes] | None = None

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                data, fds, _, _ = socket.recv_fds(connection, HEADER.size, 8)
                for fd in fds:
                    os.close(fd)
                if not data:
                    return
                kind, flags, size = HEADER.unpack(data)
                request = Request(kind)
                self.said.append((request, connection.recv(size) if size else b"", len(fds)))
                if request == self.hang_up_at:
                    return
                connection.sendall(self.answer(request, bool(flags & 8)))

    def answer(self, request: Request, need_reply: bool) -> bytes:
        if self.answer_to is not None:
            return self.answer_to(request)
        if request == Request.GET_FEATURES:
            return encode_reply(request, U64(self.features))
        if request == Request.GET_PROTOCOL_FEATURES:
            return encode_reply(request, U64(self.protocol_features))
        if request == Request.GET_VRING_BASE:
            return encode_reply(request, VringState(1, 77))
        return encode_reply(request, U64(int(request == self.refuse))) if need_reply else b""

    def requests(self) -> list[Request]:
        return [request for request, _, _ in self.said]


@contextlib.contextmanager
def short_path() -> Iterator[str]:
    with short_dir() as directory:
        yield str(directory / "a.sock")


@contextlib.contextmanager
def connected(back_end: ScriptedBackEnd) -> Iterator[FrontEnd]:
    with short_path() as path, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        thread = threading.Thread(target=lambda: back_end.serve(listener.accept()[0]), daemon=True)
        thread.start()
        front_end = FrontEnd(path, timeout=MAX_WAIT)
        try:
            front_end.connect()
            yield front_end
        finally:
            front_end.close()
            thread.join(MAX_WAIT)
        assert not thread.is_alive()


def start_ring(front_end: FrontEnd, index: int = 1) -> None:
    fd = os.eventfd(0)
    try:
        front_end.start_ring(index, 256, (0x1000, 0x2000, 0x3000), fd, fd)
        assert os.eventfd_read(fd) == 1    # the first kick starts a ring
    finally:
        os.close(fd)


def test_only_what_both_sides_know_is_negotiated() -> None:
    back_end = ScriptedBackEnd(features=int(Feature.VERSION_1 | Feature.EVENT_IDX) | 1 << 35)
    with connected(back_end) as front_end:
        assert front_end.negotiate(ALL) == Feature.VERSION_1 | Feature.EVENT_IDX
    assert Request.GET_PROTOCOL_FEATURES not in back_end.requests()
    assert back_end.said[-1][:2] == (Request.SET_FEATURES, U64(1 << 32 | 1 << 29).encode())


def test_a_ring_is_set_up_before_it_is_kicked_and_enabled_last() -> None:
    back_end = ScriptedBackEnd()
    with connected(back_end) as front_end:
        front_end.negotiate(ALL)
        fd = os.memfd_create("guest")
        front_end.share_memory(fd, SharedRegion(0x4000_0000, 4096, 0x7F00_0000_0000, 0))
        os.close(fd)
        start_ring(front_end)
        front_end.enable_ring(1)
        assert front_end.stop_ring(1) == 77
    assert [(request, n_fds) for request, _, n_fds in back_end.said[4:]] == [
        (Request.SET_FEATURES, 0),
        (Request.SET_MEM_TABLE, 1),
        (Request.SET_VRING_NUM, 0),
        (Request.SET_VRING_BASE, 0),
        (Request.SET_VRING_ADDR, 0),
        (Request.SET_VRING_CALL, 1),
        (Request.SET_VRING_KICK, 1),
        (Request.SET_VRING_ENABLE, 0),
        (Request.GET_VRING_BASE, 0),
    ]


def test_without_protocol_features_no_ring_is_enabled_by_message() -> None:
    back_end = ScriptedBackEnd(features=int(Feature.VERSION_1))
    with connected(back_end) as front_end:
        front_end.negotiate(ALL)
        front_end.enable_ring(0)
    assert Request.SET_VRING_ENABLE not in back_end.requests()


def test_a_refused_request_is_named() -> None:
    with connected(ScriptedBackEnd(refuse=Request.SET_VRING_ADDR)) as front_end:
        front_end.negotiate(ALL)
        with pytest.raises(GuestsError, match="refused SET_VRING_ADDR"):
            start_ring(front_end)


def test_a_back_end_that_closes_the_connection_is_named() -> None:
    back_end = ScriptedBackEnd()
    back_end.hang_up_at = Request.GET_FEATURES
    with connected(back_end) as front_end:
        assert front_end.connected
        with pytest.raises(GuestsError, match=r"hung up on GET_FEATURES|GET_FEATURES failed"):
            front_end.negotiate(ALL)
        assert not front_end.connected


@pytest.mark.parametrize(
    "answer",
    [
        encode_reply(Request.GET_QUEUE_NUM, U64(1)),
        HEADER.pack(Request.GET_FEATURES, 1, 8) + bytes(8),
        HEADER.pack(Request.GET_FEATURES, 6, 8) + bytes(8),
        HEADER.pack(Request.GET_FEATURES, 5, 4) + bytes(4),
    ],
    ids=["another request's", "no reply flag", "another version", "too short"],
)
def test_a_wrong_answer_is_no_answer(answer: bytes) -> None:
    back_end = ScriptedBackEnd()
    back_end.answer_to = lambda request: answer if request == Request.GET_FEATURES else b""
    with connected(back_end) as front_end, pytest.raises(GuestsError, match="the answer to GET_FEATURES"):
        front_end.negotiate(ALL)


def test_silence_ends_after_the_timeout() -> None:
    back_end = ScriptedBackEnd()
    back_end.answer_to = lambda _: b""
    with connected(back_end) as front_end:
        front_end._socket.settimeout(0.1)    # type: ignore[union-attr]
        with pytest.raises(GuestsError, match=r"GET_FEATURES failed: nothing came"):
            front_end.negotiate(ALL)


def test_nobody_there_is_said_with_the_path() -> None:
    with short_path() as path, pytest.raises(GuestsError, match="no back-end answers"):
        FrontEnd(path, timeout=0.1).connect()


def test_a_back_end_that_comes_later_is_waited_for() -> None:
    with short_path() as path, socket.socket(socket.AF_UNIX) as listener:
        def come() -> None:
            listener.bind(path)
            listener.listen(1)

        timer = threading.Timer(0.2, come)
        timer.start()
        front_end = FrontEnd(path, timeout=MAX_WAIT)
        front_end.connect()
        front_end.close()
        timer.join()


def test_in_listen_mode_the_back_end_connects_and_the_path_is_free_afterwards() -> None:
    with short_path() as path:
        front_end = FrontEnd(path, listen=True, timeout=MAX_WAIT)
        with socket.socket(socket.AF_UNIX) as back_end:
            back_end.connect(path)
            front_end.connect()
            assert front_end.connected
        assert not front_end.connected
        front_end.close()
        assert not Path(path).exists()


def test_a_stale_socket_is_replaced_and_a_live_one_left_alone() -> None:
    with short_path() as path:
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        front_end = FrontEnd(path, listen=True)
        with pytest.raises(GuestsError, match="somebody listens there already"):
            FrontEnd(path, listen=True)
        front_end.close()
        Path(path).write_text("not a socket")
        with pytest.raises(GuestsError, match="cannot listen there"):
            FrontEnd(path, listen=True)
        assert Path(path).read_text() == "not a socket"


def test_waiting_for_a_back_end_ends_after_the_timeout() -> None:
    with short_path() as path:
        front_end = FrontEnd(path, listen=True, timeout=0.1)
        with pytest.raises(GuestsError, match=r"no back-end connected in 0\.1 s"):
            front_end.connect()
        front_end.close()
