"""Mergeable receive buffers: frames that spread over several chains, some of them bad. Virtio 1.2, section 5.1.6.4."""

from __future__ import annotations

from tests.driver import Piece, Timeout
from tests.frontend import FEATURES, NET_F_MRG_RXBUF
from tests.hostile.attack import ring_attack
from tests.hostile.invariant import Broken
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene

END = GUEST_ADDR + (2 << 20)
LONGEST = 65535 + 14


def boot(scene: Scene, queue_size: int = 256) -> Attacker:
    guest = scene.boot(features=FEATURES | NET_F_MRG_RXBUF, queue_size=queue_size)
    if not guest.net.mergeable:
        raise Broken("reaction", "mergeable receive buffers are not offered")
    return guest


def post(guest: Attacker, *sizes: int) -> None:
    for size in sizes:
        guest.send(*guest.room(size), queue=0)


@ring_attack("merge-count-of-1")
def a_frame_over_chains_of_every_cut(scene: Scene) -> None:
    guest = boot(scene)
    for sizes in ((12, 60), (13, 59), (12, 1, 59), (71, 1), (20, 20, 32), (12, *[1] * 60), (2048,)):
        post(guest, *sizes)
        scene.arrives(guest, scene.frame(), buffers=len(sizes))


@ring_attack("merge-count-of-1")
def the_longest_frame_over_many_chains(scene: Scene) -> None:
    guest = boot(scene)
    post(guest, *[1500] * 44)
    scene.arrives(guest, scene.frame(LONGEST), buffers=44)


@ring_attack("empty-piece-ends")
def a_frame_over_chains_with_empty_pieces(scene: Scene) -> None:
    guest = boot(scene)
    for sizes in ((0, 12, 0), (0, 0, 30), (30, 0)):
        guest.send(*guest.room(*sizes), queue=0)
    scene.arrives(guest, scene.frame(), buffers=3)


@ring_attack("merge-count-of-1")
def a_frame_over_a_ring_full_of_chains(scene: Scene) -> None:
    guest = boot(scene, queue_size=4)
    for _ in range(5):
        post(guest, 18, 18, 18, 18)
        scene.arrives(guest, scene.frame(), buffers=4)


@ring_attack("merge-count-of-1")
def a_frame_longer_than_a_ring_full_of_chains(scene: Scene) -> None:
    """It can never fit: it is dropped, and the chains stay as they are for the next frame."""
    guest = boot(scene, queue_size=4)
    post(guest, 18, 18, 18, 17)
    scene.victim.net.send(scene.frame())
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"oversize": 1})
    scene.arrives(guest, scene.frame(59), buffers=4)


@ring_attack("merge-in-part")
def a_frame_that_waits_for_its_last_chain(scene: Scene) -> None:
    """Nothing is written or returned before there is room for all of it."""
    guest = boot(scene)
    room = guest.room(40, 20)
    for piece in room:
        guest.send(piece, queue=0)
    guest.writable.clear()
    frame = scene.frame()
    scene.victim.net.send(frame)
    scene.pause(0.02)
    guest.verify()
    guest.writable += [(piece.addr, piece.bytes) for piece in room]
    post(guest, 12)
    try:
        got = guest.net.receive(scene.max_wait if scene.arena.holds else 0.0, repost=False)
    except Timeout:
        # At a switch it is dropped, on a busy machine it may be; then the next frame finds all three chains.
        scene.forget_drops()
        scene.arrives(guest, scene.frame(), buffers=3)
        return
    if got != frame:
        raise Broken("I7", f"a frame over three chains arrived as {got.hex()}")


@ring_attack("receive-room-trusted", "merge-in-part")
def a_frame_whose_chains_never_come(scene: Scene) -> None:
    guest = boot(scene)
    post(guest, 40, 20)
    scene.victim.net.send(scene.frame())
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"no_receive_buffers": 1})


def second_chain(scene: Scene, *pieces: Piece) -> None:
    """The first chain is good and must stay untouched, since the frame does not fit into it alone."""
    guest = boot(scene)
    guest.send(Piece(guest.put(bytes(40)), 40, writable=True), queue=0)
    guest.send(*pieces, queue=0)
    scene.victim.net.send(scene.frame())
    scene.broken(guest, 0)
    scene.victim.net.wait_sent(scene.max_wait)


@ring_attack("sloppy-range")
def a_second_chain_that_ends_outside_memory(scene: Scene) -> None:
    second_chain(scene, Piece(END - 1, 40, writable=True))


@ring_attack("nowhere-is-zeros")
def a_second_chain_outside_memory(scene: Scene) -> None:
    second_chain(scene, Piece(0, 2048, writable=True))


@ring_attack("write-flag-ignored")
def a_second_chain_that_is_readable(scene: Scene) -> None:
    second_chain(scene, Piece(GUEST_ADDR + (1 << 20), 2048))


@ring_attack("merge-short-header")
def a_first_chain_shorter_than_the_header(scene: Scene) -> None:
    """Section 5.1.6.3.1: the header must fit into the first chain, mergeable or not."""
    for first in (0, 1, 11):
        guest = boot(scene)
        guest.send(Piece(guest.put(bytes(first)), first, writable=True), queue=0)
        guest.send(Piece(guest.put(bytes(2048)), 2048, writable=True), queue=0)
        scene.victim.net.send(scene.frame())
        scene.broken(guest, 0)
        scene.victim.net.wait_sent(scene.max_wait)
