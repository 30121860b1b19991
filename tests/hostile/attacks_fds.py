"""Attacks with file descriptors: too many, too few, of the wrong kind, and some that block a writer."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import Callable

from tests.driver import Piece
from tests.frontend import NO_FD, U64, Closed, Frontend, Refused, Request, mem_table, single_region
from tests.hostile.attack import message_attack, ring_attack
from tests.hostile.attacks_message import GOOD_PAYLOADS, negotiated, running
from tests.hostile.scene import Attacker, Scene

WITH_ONE_FD = (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)
MOST_FDS = 253
"""SCM_MAX_FD: the most that the kernel passes in one message."""


# Surplus


for request, payload in GOOD_PAYLOADS.items():

    def with_surplus(scene: Scene, request: int = request, payload: bytes = payload) -> None:
        """Refused or not, with and without rings, nothing stays open; that is checked after every attack."""
        expected = 1 if request in WITH_ONE_FD else 0
        for n in (1, 2, 8, 9, 17):
            frontend = negotiated(scene, acks=n % 2 == 0) if n < 8 else running(scene, acks=n % 2 == 0).frontend
            content = U64.pack(0) if expected and n == 1 else payload
            scene.tolerated(frontend, request, content, [scene.eventfd() for _ in range(n + expected)])

    bugs = ("fd-leak", "surplus-fds-crash") if request == Request.SET_VRING_CALL else ("fd-leak",)
    ring_attack(*bugs, name=f"{request.name.lower()}_with_surplus_file_descriptors")(with_surplus)


@ring_attack("fd-leak")
def every_request_with_253_file_descriptors(scene: Scene) -> None:
    """More than the receiver's buffer holds: the kernel drops some, and the message cannot be trusted."""
    for request, payload in GOOD_PAYLOADS.items():
        frontend = running(scene, acks=False).frontend
        frontend.send(request, payload, [scene.eventfd()] * MOST_FDS)
        scene.closed(frontend)


@message_attack("unknown-request-crash", "fd-leak")
def unknown_requests_with_file_descriptors(scene: Scene) -> None:
    for request in (0, 19, 21, 31, 32, 41, 42, 1000, 0xFFFFFFFF):
        scene.refused(negotiated(scene, acks=False), request, bytes(8), [scene.eventfd() for _ in range(8)])


@message_attack("fd-leak")
def file_descriptors_with_the_payload_instead_of_the_header(scene: Scene) -> None:
    """Legal or not, the message is handled or refused, and nothing stays open."""
    for n in (1, 8):
        frontend = negotiated(scene, acks=False)
        frontend.send_raw(struct.pack("<III", Request.SET_VRING_CALL, 1, 8))
        with contextlib.suppress(Closed):
            frontend.send_raw(U64.pack(0), [scene.eventfd() for _ in range(n)])
            frontend.ask(Request.GET_FEATURES)


@ring_attack("fd-leak")
def the_same_call_file_descriptor_set_over_and_over(scene: Scene) -> None:
    guest = scene.boot()
    for _ in range(200):
        guest.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [guest.calls[1]])
    scene.works(guest)


# Too few


@message_attack("absent-fd-trusted")
def a_file_descriptor_announced_and_not_sent(scene: Scene) -> None:
    for request in WITH_ONE_FD:
        for acks in (True, False):
            scene.refused(negotiated(scene, acks=acks), request, U64.pack(0))


@message_attack("absent-fd-trusted")
def memory_announced_without_its_file_descriptors(scene: Scene) -> None:
    own, other = scene.own_region(), scene.own_region(1 << 32)
    for fds in ([], [own.fd], [own.fd] * 3):
        scene.refused(negotiated(scene, acks=True), Request.SET_MEM_TABLE, mem_table([own, other]), fds)
        if len(fds) != 1:
            scene.refused(negotiated(scene, acks=False), Request.ADD_MEM_REG, single_region(own), fds)


# Of the wrong kind: files that are not memory


def read_only() -> int:
    fd = os.memfd_create("attacker", 0)
    os.ftruncate(fd, 1 << 21)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    finally:
        os.close(fd)


def directory() -> int:
    return os.open(tempfile.gettempdir(), os.O_RDONLY)


def one_end_of_a_pipe() -> int:
    keep, other = os.pipe()
    os.close(other)
    return keep


def a_socket() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def dev_zero() -> int:
    return os.open("/dev/zero", os.O_RDWR)


def an_eventfd() -> int:
    return os.eventfd(0)


def an_empty_memfd() -> int:
    return os.memfd_create("attacker", 0)


def a_path_only_file() -> int:
    return os.open("/proc/self/exe", os.O_PATH)


NO_MEMORY: dict[str, Callable[[], int]] = {
    "that_is_read_only": read_only,
    "that_is_a_directory": directory,
    "that_is_a_pipe": one_end_of_a_pipe,
    "that_is_a_socket": a_socket,
    "that_is_dev_zero": dev_zero,
    "that_is_an_eventfd": an_eventfd,
    "that_is_empty": an_empty_memfd,
    "opened_with_o_path": a_path_only_file,
}

for words, make in NO_MEMORY.items():

    def not_memory(scene: Scene, make: Callable[[], int] = make) -> None:
        own = scene.own_region()
        fd = scene.adopt(make())
        for acks in (True, False):
            scene.refused(negotiated(scene, acks=acks), Request.SET_MEM_TABLE, mem_table([own]), [fd])
            scene.refused(negotiated(scene, acks=acks), Request.ADD_MEM_REG, single_region(own), [fd])

    message_attack("any-file-is-memory", name=f"memory_{words}")(not_memory)


# Call, err and kick file descriptors that are not what they should be


def full_eventfd(flags: int = os.EFD_CLOEXEC) -> int:
    """A counter at its maximum: a blocking write to it waits for ever."""
    fd = os.eventfd(0, flags)
    os.eventfd_write(fd, 2**64 - 2)
    return fd


def filled(fd: int) -> int:
    """Make a socket or pipe blocking, and fill it."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(4096))
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.set_blocking(fd, True)
    return fd


def full_pipe() -> int:
    unread, write_end = os.pipe()
    UNREAD.append(unread)
    return filled(write_end)


def pipe_without_reader() -> int:
    read_end, write_end = os.pipe()
    os.close(read_end)
    return write_end


def socket_without_peer() -> int:
    left, right = socket.socketpair()
    right.close()
    return left.detach()


def full_socket() -> int:
    unread, write_end = socket.socketpair()
    UNREAD.append(unread.detach())
    return filled(write_end.detach())


UNREAD: list[int] = []
"""Reading ends nobody reads, open for the run of the tests."""
TO_WRITE: dict[str, Callable[[], int]] = {
    "at_its_maximum_that_blocks": full_eventfd,
    "at_its_maximum_that_is_a_semaphore": lambda: full_eventfd(os.EFD_SEMAPHORE),
    "that_is_a_full_pipe": full_pipe,
    "that_is_a_full_socket": full_socket,
    "that_is_a_pipe_without_reader": pipe_without_reader,
    "that_is_a_socket_without_peer": socket_without_peer,
    "that_is_a_directory": directory,
    "that_is_read_only": read_only,
    "opened_with_o_path": a_path_only_file,
}


def set_fd(guest: Attacker, request: Request, index: int, fd: int) -> bool:
    """Whether it was accepted. Refusing a file that is no eventfd is legal, too."""
    try:
        guest.frontend.tell(request, U64.pack(index), [fd])
    except (Refused, Closed):
        return False
    return True


def block(fd: int) -> None:
    """Clear O_NONBLOCK: the flag belongs to the open file, which both processes have."""
    with contextlib.suppress(OSError):
        os.set_blocking(fd, True)


@ring_attack("blocking-call")
def a_call_file_descriptor_that_becomes_full_and_blocks_under_traffic(scene: Scene) -> None:
    guest = scene.boot()
    for _ in range(5):
        scene.works(guest)
        scene.pause(0.05)  # the mini back-end sets O_NONBLOCK and then writes: not in between
        for fd in guest.calls:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
            os.eventfd_write(fd, 2**64 - 2)
            os.set_blocking(fd, True)
        scene.works(guest)
        for fd in guest.calls:
            os.set_blocking(fd, False)


for words, make in TO_WRITE.items():
    bug = "write-error-crash" if "without" in words else "blocking-call"

    def call_fd(scene: Scene, make: Callable[[], int] = make) -> None:
        guest = scene.boot()
        fds = [scene.adopt(make()) for _ in range(2)]
        if all(set_fd(guest, Request.SET_VRING_CALL, index, fd) for index, fd in enumerate(fds)):
            for fd in fds:
                block(fd)
            for _ in range(3):
                scene.works(guest, 1)
                scene.works(guest, 0)

    def err_fd(scene: Scene, make: Callable[[], int] = make) -> None:
        guest = scene.boot()
        if set_fd(guest, Request.SET_VRING_ERR, 1, fd := scene.adopt(make())):
            block(fd)
            guest.send(Piece(0, 72))
            scene.counted({"bad_descriptor": 1})
            guest.restart_queue(1)
            scene.works(guest)

    if words in ("that_is_a_directory", "that_is_read_only", "opened_with_o_path"):
        bug = "write-error-crash"
    ring_attack(bug, name=f"a_call_file_descriptor_{words}")(call_fd)
    ring_attack(bug, name=f"an_err_file_descriptor_{words}")(err_fd)


def always_readable() -> int:
    fd = os.memfd_create("kick", 0)
    os.ftruncate(fd, 4096)
    return fd


TO_READ: dict[str, Callable[[], int]] = {
    "that_is_always_readable": always_readable,
    "that_is_dev_zero": dev_zero,
    "that_is_a_pipe_without_writer": one_end_of_a_pipe,
    "that_is_a_pipe_without_reader": pipe_without_reader,
    "that_is_a_socket_without_peer": socket_without_peer,
    "that_is_a_directory": directory,
    "opened_with_o_path": a_path_only_file,
    "that_blocks": lambda: os.eventfd(0),
}

for words, make in TO_READ.items():

    def kick_fd(scene: Scene, make: Callable[[], int] = make) -> None:
        """The ring starts at once, or with its first buffer, or is refused.

        The control thread neither spins nor blocks.
        """
        guest = scene.boot()
        for index in range(2):
            guest.frontend.get_vring_base(index)
        for index in range(2):
            if not set_fd(guest, Request.SET_VRING_KICK, index, scene.adopt(make())):
                return
        guest.frontend.ask(Request.GET_FEATURES)
        scene.control_idles()

    bug = "kick-read-blocks" if words == "that_blocks" else "kick-spins"
    ring_attack(bug, name=f"a_kick_file_descriptor_{words}")(kick_fd)


@ring_attack("write-error-crash")
def its_own_connection_as_call_file_descriptor(scene: Scene) -> None:
    """The back-end writes calls into a vhost-user connection, which may break only that connection."""
    guest = scene.boot()
    second = scene.adopt(Frontend.connect(scene.arena.backend.path("a")).sock.detach())
    if set_fd(guest, Request.SET_VRING_CALL, 1, second):
        for _ in range(3):
            scene.works(guest, 1)


@message_attack("any-file-is-memory")
def its_own_connection_as_memory(scene: Scene) -> None:
    frontend = negotiated(scene, acks=True)
    scene.refused(frontend, Request.SET_MEM_TABLE, mem_table([scene.own_region()]), [frontend.sock.fileno()])


@ring_attack("fd-leak")
def call_file_descriptors_taken_away_and_given_back_under_traffic(scene: Scene) -> None:
    guest = scene.boot()
    for number in range(50):
        fds = [guest.calls[1]] if number % 2 else []
        guest.frontend.tell(Request.SET_VRING_CALL, U64.pack(1 if fds else 1 | NO_FD), fds)
        scene.works(guest)
