"""Attacks through kernel objects that both processes have. fwd must not wait for any of them.

Waiters on an eventfd, the mutex of a pipe or an epoll, whether an open file blocks, how long a close() takes, pages
that can be removed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time
from collections.abc import Callable

from tests.driver import Piece, Timeout
from tests.frontend import NO_FD, U64, VERSION, VRING_STATE, Closed, Refused, Request
from tests.hostile.accomplice import EFD_MAXIMUM, Accomplice
from tests.hostile.attack import attack, lasting_attack
from tests.hostile.attacks_message import negotiated
from tests.hostile.scene import Scene, region
from tests.lingering import lingering

SECONDS = 2.0
KERNELS = "what the kernel does for its callers, who are threads of one process there"
WAITERS = 5_000
SITTERS = 4
FRAME_PAUSE = 0.0005


# Waiters on an eventfd


class Notified:
    """A guest that is notified of each frame, through one of two eventfds."""

    def __init__(self, scene: Scene, request: Request) -> None:
        self.scene, self.request = scene, request
        self.guest = scene.boot()
        self.fds = [scene.eventfd(), scene.eventfd()]
        self.which = -1

    def use(self, which: int) -> None:
        if which != self.which:
            self.guest.frontend.tell(self.request, U64.pack(1), [self.fds[which]])
            self.which = which

    def act(self, which: int) -> None:
        """Send a frame and a kick, and wait for the frame to come back. Raises Closed when the front-end is refused."""
        self.use(which)
        self.guest.send(Piece(self.guest.memory.regions[0].guest_addr, 20))  # a runt: dropped and returned
        if self.request == Request.SET_VRING_KICK:
            os.eventfd_write(self.fds[which], 1)
        deadline = time.monotonic() + self.scene.max_wait
        while not self.guest.transmitq.take_used():
            if self.guest.frontend.wait_closed(0.0001):
                raise Closed("with a frame on its way")
            if time.monotonic() > deadline:
                raise Timeout("the frame did not come back")
        self.scene.pause(FRAME_PAUSE)


class Toggled:
    """A guest that is notified through a full eventfd whose O_NONBLOCK is switched on and off, or through another one.

    Where its front-end is refused, because notify threads of its port wait for that eventfd, it connects again.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.came = 0
        self._come()

    def _come(self) -> None:
        self._notified = Notified(self._scene, Request.SET_VRING_CALL)
        for fd in self._notified.fds:
            os.eventfd_write(fd, EFD_MAXIMUM)
        self._toggler = Accomplice("toggles_blocking", self._notified.fds[:1], aimed=True)
        self.came += 1

    def act(self, which: int) -> None:
        """Notify through one of them; 0 is the switched one."""
        try:
            self._notified.act(which)
        except (Closed, BrokenPipeError, ConnectionResetError):
            self._toggler.stop()
            self._come()

    def stop(self) -> None:
        self._toggler.stop()


def with_waiters(scene: Scene, request: Request) -> None:
    notified = Notified(scene, request)
    sitters = [Accomplice("waits_many_times", notified.fds[:1], WAITERS) for _ in range(SITTERS)]
    try:
        scene.in_turns(lambda: notified.act(0), lambda: notified.act(1), SECONDS)
    finally:
        for sitter in sitters:
            sitter.stop()


@lasting_attack(beyond_mini=KERNELS)
def a_call_eventfd_that_many_wait_for(scene: Scene) -> None:
    """Each notification wakes all of them, in the notifying thread."""
    with_waiters(scene, Request.SET_VRING_CALL)


@lasting_attack(beyond_mini=KERNELS, rings=("packed",), ends=True)
def a_kick_eventfd_that_many_wait_for(scene: Scene) -> None:
    with_waiters(scene, Request.SET_VRING_KICK)


# Whether an open file blocks


@lasting_attack("blocking-call", ends=True)
def a_full_call_eventfd_that_blocks_now_and_then(scene: Scene) -> None:
    """A thread that checks O_NONBLOCK and then writes can block in between."""
    notified = Notified(scene, Request.SET_VRING_CALL)
    for fd in notified.fds:
        os.eventfd_write(fd, EFD_MAXIMUM)
    toggler = Accomplice("toggles_blocking", notified.fds[:1])

    def act(*, aimed: bool) -> None:
        toggler.aim(aimed)
        notified.act(0 if aimed else 1)

    try:
        scene.in_turns(lambda: act(aimed=True), lambda: act(aimed=False), SECONDS)
    finally:
        toggler.stop()


@attack(beyond_mini=KERNELS, rings=("split", "packed"), ends=True)
def eventfds_that_become_full_and_block_while_they_are_handed_over(scene: Scene) -> None:
    """A control thread that signals a new call must not wait for its counter either, nor may other threads."""
    for _ in range(3):
        guest = scene.boot()
        for number in range(40):
            fd = scene.eventfd()
            guest.frontend.send(Request.SET_VRING_CALL, U64.pack(number % 2), [fd])
            scene.pause(scene.random.random() * 0.0003)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(fd, EFD_MAXIMUM)
            os.set_blocking(fd, True)
        scene.disconnect()
        scene.arena.exchange("a", scene.victim)


# Mutexes that another process holds


Held = Callable[[Scene], tuple[int, int, str]]
"""Makes the descriptor to send, the one for the accomplice, and the name of what it does."""


def an_epoll(scene: Scene) -> tuple[int, int, str]:
    """Its fdinfo lists what it watches, under its mutex."""
    fd, inner = scene.eventfd(), select.epoll()
    inner.register(fd, select.EPOLLIN)
    os.eventfd_write(fd, 1)
    epoll = scene.adopt(os.dup(inner.fileno()))
    return epoll, epoll, "sits_under_an_epoll"


HELD: dict[str, Held] = {"an_epoll_that_is_held": an_epoll}


def enter_held(kinds: dict[str, Held]) -> None:
    """Enter each as a kick and as a call."""
    for words, make in kinds.items():
        for request, use in ((Request.SET_VRING_KICK, "kick"), (Request.SET_VRING_CALL, "call")):

            def held(scene: Scene, make: Held = make, request: int = request) -> None:
                """It is sent, replaced, and closed with the connection; new front-ends are served meanwhile."""
                hand_over_and_end(scene, make, request)

            attack(beyond_mini=KERNELS, name=f"{words}_as_{use}")(held)


def hand_over_and_end(scene: Scene, make: Held, request: int) -> None:
    guest = scene.boot()
    fd, under, deed = make(scene)
    sitter = Accomplice(deed, [under])
    try:
        scene.pause(0.02)
        with contextlib.suppress(Refused, Closed):
            guest.frontend.tell(request, U64.pack(1), [fd])
            guest.frontend.tell(request, U64.pack(1 | NO_FD))
        with contextlib.suppress(Closed):
            guest.frontend.send_raw(struct.pack("<III", request, VERSION, 8), [fd])
            for own in {fd, under}:
                scene.give_up(own)  # fwd or the accomplice has the last descriptor
            guest.frontend.send_raw(U64.pack(1))
            guest.frontend.ask(Request.GET_FEATURES)
        scene.disconnect()
        scene.arena.exchange("a", scene.victim)
        scene.arena.exchange("e", scene.arena.friend)
        scene.ends_and_starts_again(signal.SIGTERM if request == Request.SET_VRING_KICK else signal.SIGKILL)
    finally:
        sitter.stop()


enter_held(HELD)


# How long a close() takes


@attack(beyond_mini=KERNELS, ends=True)
def surplus_sockets_that_linger_for_an_hour(scene: Scene) -> None:
    """They may use up this port's threads, but not those of other ports, which can still look at such files."""
    scene.max_wait = 0.5  # this port has no threads left
    with lingering(70) as socks:
        with contextlib.suppress(Closed, OSError):
            for sock in socks:
                frontend = negotiated(scene, acks=False)
                header = struct.pack("<III", Request.SET_VRING_NUM, 1, 8)
                frontend.send_raw(header, [sock.fileno()])
                sock.close()
                frontend.send_raw(VRING_STATE.pack(0, 256))
        scene.disconnect()
        scene.arena.exchange("e", scene.arena.friend)


# Address space, and untouched pages


@attack(beyond_mini="mappings as large as their regions", ends=True)
def regions_of_all_the_address_space(scene: Scene) -> None:
    """Regions of one sparse file. Other ports have room for theirs meanwhile, which is checked after every attack."""
    fd = scene.adopt(os.memfd_create("attacker", os.MFD_CLOEXEC))
    os.ftruncate(fd, 1 << 62)
    frontend = negotiated(scene, acks=True)
    for number in range(20):
        size = 1 << (46 - number // 4)
        payload = U64.pack(0) + struct.pack("<QQQQ", number << 47, size, number << 47, 0)
        if not scene.tolerated(frontend, Request.ADD_MEM_REG, payload, [fd]):
            frontend = negotiated(scene, acks=True)
    scene.arena.exchange("e", scene.arena.friend)


UNTOUCHED = 256 << 20


@attack(beyond_mini="mappings as large as their regions", ends=True)
def frames_out_of_pages_that_nobody_touched(scene: Scene) -> None:
    """They count as memory of fwd, which touches them first, while they are mapped; afterwards they must not."""
    backend = scene.arena.backend
    before = backend.resident_bytes()
    guest = scene.boot(regions=[region(), region(4096, 1 << 40, file_bytes=UNTOUCHED, mmap_offset=0)], blank=True)
    own = guest.memory.regions[1]
    for at in range(0, 64):
        guest.send(Piece(own.guest_addr + at * 16, 72))
    scene.frames_may_have_arrived()
    scene.disconnect()
    scene.arena.wait_released()
    if backend.resident_bytes() - before > 8 << 20:
        raise AssertionError("pages of a guest that is gone are still fwd's")
