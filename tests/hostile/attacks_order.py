"""IN_ORDER promised and not kept, and returned in batches. Virtio 1.2, sections 2.7.9 and 2.8.8.

A driver that promised to use its descriptors in order and does otherwise harms itself at most: whichever chain the
device takes for the next one, it is checked as any other.
"""

from __future__ import annotations

from tests.driver import Used
from tests.hostile.attack import attack
from tests.hostile.invariant import Broken
from tests.hostile.scene import Attacker, Scene

IN_ORDER = ("split_in_order", "packed_in_order")


def batch(scene: Scene, guest: Attacker, n: int) -> None:
    frames = [scene.frame(60 + i) for i in range(n)]
    heads = [guest.transmitq.chain(guest.pieces(guest.packet(frame), [12] * (i % 3))) for i, frame in enumerate(frames)]
    guest.fire(*heads)
    if [scene.victim.net.receive(scene.patience) for _ in frames] != frames:
        raise Broken("I7", f"{n} frames at once arrived in another form")
    scene.returned(guest, heads)


BATCHES = ("batch-told-by-first", "batch-moves-one", "batch-forgets-one")


@attack("layout-assumed", *BATCHES, rings=(*IN_ORDER, "packed", "split"))
def batches_of_every_size(scene: Scene) -> None:
    """Each chain comes back once, in order, one by one or by the last of a batch."""
    guest = scene.boot(queue_size=64)
    for n in (1, 2, 3, 4, 5, 8, 13, 30, 31, 4, 4, 4, 17):
        batch(scene, guest, n)
    scene.works(guest, 0)


@attack("drop-keeps-chain", rings=(*IN_ORDER, "packed", "split"))
def runts_between_frames(scene: Scene) -> None:
    """What is dropped is returned in its turn."""
    guest = scene.boot(queue_size=64)
    frames = [scene.frame(60 + i) for i in range(12)]
    pieces = [guest.piece(guest.packet(frame)[: 20 if i % 3 == 1 else None]) for i, frame in enumerate(frames)]
    heads = [guest.transmitq.chain([piece]) for piece in pieces]
    guest.fire(*heads)
    good = [frame for i, frame in enumerate(frames) if i % 3 != 1]
    if [scene.victim.net.receive(scene.patience) for _ in good] != good:
        raise Broken("I7", "the frames between runts arrived in another form")
    scene.returned(guest, heads)
    scene.counted({"runt": 4})


@attack("order-trusted", rings=("split_in_order",))
def heads_out_of_order(scene: Scene) -> None:
    """Delivered by what the available ring says, or the queue breaks."""
    for order in ((3, 1, 2, 0), (0, 0, 0, 0), (9, 8, 7, 200), (255, 0, 254, 1)):
        guest = scene.boot()
        for head in {*range(12), 200, 254, 255}:
            guest.transmitq.write_descriptor(head, guest.put(guest.packet(scene.frame())), 72)
        guest.fire(*order)
        scene.frames_may_have_arrived()
        guest.restart_queue(1)
        scene.forget_drops()
        scene.works(guest)


@attack("order-trusted", rings=("packed_in_order",))
def buffer_ids_out_of_order(scene: Scene) -> None:
    for order in ((3, 1, 2, 0), (0, 0, 0, 0), (9, 8, 7, 200), (0xFFFF, 0, 0xFFFE, 1)):
        guest = scene.boot()
        for i in range(3, -1, -1):
            guest.transmitq.put(i, guest.put(guest.packet(scene.frame())), 72, order[i])
        guest.transmitq.move_on(4)
        got = len([scene.victim.net.receive(scene.patience) for _ in order])
        if got != 4:
            raise Broken("C", f"{got} of 4 frames arrived")
        guest.restart_queue(1)
        scene.forget_drops()
        scene.works(guest)


@attack("no-head-check", rings=("split_in_order", "split"))
def a_bad_head_among_four(scene: Scene) -> None:
    for position in range(4):
        guest = scene.boot()
        frames = [scene.frame() for _ in range(4)]
        heads = [guest.transmitq.chain([guest.piece(guest.packet(frame))]) for frame in frames]
        guest.decoy(guest.transmitq, 256, scene.frame())
        guest.fire(*heads[:position], 256, *heads[position + 1 :])
        got = [scene.victim.net.receive(scene.patience) for _ in range(position)]
        if got != frames[:position]:
            raise Broken("I7", "the frames before the bad head arrived in another form")
        if position and guest.transmitq.wait_used(position, scene.patience) != [Used(h, 0) for h in heads[:position]]:
            raise Broken("C", "the chains before the bad head came back as others")
        scene.broken(guest)
