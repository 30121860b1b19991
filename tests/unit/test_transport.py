"""One connection: pieces become messages, file descriptors have an owner, and nothing waits."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.payload import U64
from fastvhost.vhostuser.message import MalformedError, Request, encode_reply, encode_request
from fastvhost.vhostuser.transport import MAX_WAIT, PeerGoneError, Transport
from tests.unit.session_bench import Clock, open_fds


class Pair:
    """A transport and the front-end's end of its socket."""

    def __init__(self) -> None:
        self.peer, ours = socket.socketpair()
        self.clock = Clock()
        self.transport = Transport(ours, self.clock)

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.peer.sendmsg([data], ancillary) == len(data)

    def close(self) -> None:
        self.peer.close()
        self.transport.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


def test_nothing_sent_is_no_message(pair: Pair) -> None:
    assert pair.transport.receive() is None
    assert pair.transport.deadline is None


def test_a_message_split_at_any_byte_arrives_once_and_whole(pair: Pair) -> None:
    data = encode_request(Request.SET_FEATURES, U64(0x0102030405060708))
    for cut in range(1, len(data)):
        pair.send(data[:cut])
        assert pair.transport.receive() is None
        pair.send(data[cut:])
        message = pair.transport.receive()
        assert message is not None
        assert message.header == (2, 1, 8)
        assert message.payload == data[12:]
        assert pair.transport.receive() is None


def test_messages_that_arrive_together_stay_apart(pair: Pair) -> None:
    pair.send(encode_request(Request.SET_FEATURES, U64(1)) + encode_request(Request.SET_OWNER) + b"\2")
    first, second = pair.transport.receive(), pair.transport.receive()
    assert first is not None
    assert second is not None
    assert (first.header.request, second.header.request) == (2, 3)
    assert second.payload == b""
    assert pair.transport.receive() is None


def test_file_descriptors_belong_to_the_message_they_came_with(pair: Pair, fd: int) -> None:
    pair.send(encode_request(Request.SET_VRING_KICK, U64(0)), [fd])
    pair.send(encode_request(Request.SET_VRING_CALL, U64(1)), [fd, fd])
    first, second = pair.transport.receive(), pair.transport.receive()
    assert first is not None
    assert second is not None
    assert (len(first.fds), len(second.fds)) == (1, 2)
    first.close()
    second.close()


def test_file_descriptors_come_with_the_header_however_slowly_the_rest_follows(pair: Pair, fd: int) -> None:
    data = encode_request(Request.SET_VRING_KICK, U64(0))
    pair.send(data[:1], [fd])
    for n in range(1, len(data)):
        assert pair.transport.receive() is None
        pair.send(data[n : n + 1])
    message = pair.transport.receive()
    assert message is not None
    assert len(message.fds) == 1
    message.close()


def test_received_file_descriptors_are_not_inherited_by_children(pair: Pair, fd: int) -> None:
    pair.send(encode_request(Request.SET_VRING_KICK, U64(0)), [fd])
    message = pair.transport.receive()
    assert message is not None
    assert fcntl.fcntl(message.fds[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    message.close()


def test_what_a_handler_does_not_take_is_closed(pair: Pair, fd: int) -> None:
    before = open_fds()
    pair.send(encode_request(Request.SET_MEM_TABLE, U64(0)), [fd, fd, fd])
    message = pair.transport.receive()
    assert message is not None
    taken = message.take_fd()
    message.close()
    message.close()
    assert len(open_fds()) == len(before) + 1
    os.close(taken)


def test_file_descriptors_of_a_message_that_never_ends_are_closed_with_the_connection(pair: Pair, fd: int) -> None:
    before = open_fds()
    pair.send(encode_request(Request.SET_MEM_TABLE, U64(0))[:14], [fd] * 8)
    assert pair.transport.receive() is None
    assert len(open_fds()) == len(before) + 8
    pair.transport.close()
    assert len(open_fds()) == len(before) - 1


def test_more_than_eight_file_descriptors_are_an_error_and_all_closed(pair: Pair, fd: int) -> None:
    before = open_fds()
    pair.send(encode_request(Request.SET_MEM_TABLE, U64(0)), [fd] * 9)
    with pytest.raises(ProtocolError, match="file descriptors were lost"):
        pair.transport.receive()
    pair.transport.close()
    assert len(open_fds()) == len(before) - 1


def test_file_descriptors_spread_over_pieces_of_one_message_count_together(pair: Pair, fd: int) -> None:
    data = encode_request(Request.SET_MEM_TABLE, U64(0))
    pair.send(data[:4], [fd] * 6)
    pair.send(data[4:], [fd] * 6)
    with pytest.raises(ProtocolError, match="more than 8"):
        pair.transport.receive()


def test_a_process_out_of_file_descriptors_closes_what_it_got_and_says_so(pair: Pair, fd: int) -> None:
    before = open_fds()
    pair.send(encode_request(Request.SET_MEM_TABLE, U64(0)), [fd] * 4)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(line.split()[0]) for line in before) + 3, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(fd))
        os.close(fillers.pop())  # room for one of four
        with pytest.raises(ProtocolError, match="ulimit -n"):
            pair.transport.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in fillers:
            os.close(filler)
    pair.transport.close()
    assert len(open_fds()) == len(before) - 1


def test_a_header_that_cannot_be_trusted_ends_it(pair: Pair) -> None:
    pair.send(struct.pack("=III", 1, 2, 0))
    with pytest.raises(MalformedError):
        pair.transport.receive()


def test_the_end_of_the_connection_is_told_from_the_middle_of_a_message(pair: Pair) -> None:
    pair.peer.close()
    with pytest.raises(PeerGoneError, match=r"closed$"):
        pair.transport.receive()


def test_the_end_in_the_middle_of_a_message_says_so(pair: Pair) -> None:
    pair.send(encode_request(Request.SET_FEATURES, U64(1))[:-1])
    pair.peer.close()
    with pytest.raises(PeerGoneError, match="middle"):
        pair.transport.receive()


@pytest.mark.parametrize("sent", [1, 12, 16])
def test_a_half_sent_message_is_waited_for_only_so_long(pair: Pair, sent: int) -> None:
    pair.send(encode_request(Request.SET_FEATURES, U64(1))[:sent])
    assert pair.transport.receive() is None
    assert pair.transport.deadline == pair.clock.now + MAX_WAIT
    pair.clock.now += MAX_WAIT / 2
    pair.transport.check_stuck()
    pair.clock.now += MAX_WAIT / 2
    with pytest.raises(ProtocolError, match="not finished"):
        pair.transport.check_stuck()


def test_a_whole_message_ends_the_wait(pair: Pair) -> None:
    data = encode_request(Request.SET_FEATURES, U64(1))
    pair.send(data[:5])
    assert pair.transport.receive() is None
    pair.send(data[5:])
    assert pair.transport.receive() is not None
    pair.clock.now += 10 * MAX_WAIT
    pair.transport.check_stuck()


def test_a_reply_reaches_the_front_end(pair: Pair) -> None:
    reply = encode_reply(Request.GET_FEATURES, U64(7))
    pair.transport.send(reply)
    assert not pair.transport.wants_write
    assert pair.peer.recv(100) == reply


def test_replies_nobody_reads_are_kept_and_after_a_while_an_error(pair: Pair) -> None:
    reply = encode_reply(Request.GET_FEATURES, U64(7))
    sent = 0
    while not pair.transport.wants_write:
        pair.transport.send(reply)
        sent += 1
    pair.clock.now += MAX_WAIT
    with pytest.raises(ProtocolError, match="not read"):
        pair.transport.check_stuck()
    # It reads after all: every byte is there, in order.
    data = bytearray()
    while pair.transport.wants_write:
        data += pair.peer.recv(1 << 20)
        pair.transport.flush()
    pair.peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            data += pair.peer.recv(1 << 20)
    assert data == reply * sent
    pair.transport.check_stuck()


def test_a_reply_after_the_front_end_closed_ends_the_connection_without_sigpipe(pair: Pair) -> None:
    pair.peer.close()
    with pytest.raises(PeerGoneError):
        pair.transport.send(encode_reply(Request.GET_FEATURES, U64(7)))


def test_the_peer_is_known_by_its_process(pair: Pair) -> None:
    assert pair.transport.peer_pid == os.getpid()
