"""IN_ORDER negotiated and not obeyed, and chains returned in batches. Virtio 1.2, sections 2.7.9 and 2.8.8.

A driver that does not use its descriptors in order harms only itself: whichever chain the device takes as the next one
is checked like any other.
"""

from __future__ import annotations

from tests.driver import Used
from tests.frontend import FEATURES, NET_F_MRG_RXBUF
from tests.hostile.attack import attack
from tests.hostile.invariant import Broken
from tests.hostile.scene import Attacker, Scene

IN_ORDER = ("split_in_order", "packed_in_order")


def batch(scene: Scene, guest: Attacker, n: int) -> None:
    frames = [scene.frame(60 + i) for i in range(n)]
    heads = [guest.transmitq.chain(guest.pieces(guest.packet(frame), [12] * (i % 3))) for i, frame in enumerate(frames)]
    guest.fire(*heads)
    if [scene.victim.net.receive(scene.max_wait) for _ in frames] != frames:
        raise Broken("I7", f"{n} frames at once arrived in another form")
    scene.returned(guest, heads)


BATCHES = ("batch-told-by-first", "batch-moves-one", "batch-forgets-one")


@attack("layout-assumed", "batch-length", *BATCHES, rings=(*IN_ORDER, "packed", "split"))
def batches_of_every_size(scene: Scene) -> None:
    """Each chain comes back once, in order, one by one or by the last of a batch."""
    guest = scene.boot(queue_size=64)
    for n in (1, 2, 3, 4, 5, 8, 13, 30, 31, 4, 4, 4, 17):
        batch(scene, guest, n)
    scene.works(guest, 0)


BURST_RINGS = ("packed_in_order", "packed", "split_in_order", "split")


def burst(scene: Scene, guest: Attacker, *sizes: int, buffer: int = 2048) -> None:
    """Have the victim send frames of these sizes at once, into buffers of one size.

    Returns their contents and used lengths.
    """
    frames = [scene.frame(size) for size in sizes]
    buffers = [-(-(12 + size) // buffer) for size in sizes]
    packets = [bytes(10) + n.to_bytes(2, "little") + frame for frame, n in zip(frames, buffers, strict=True)]
    parts = [packet[at : at + buffer] for packet in packets for at in range(0, len(packet), buffer)]
    room = guest.room(*[buffer] * len(parts))
    heads = [guest.send(piece, queue=0) for piece in room]
    scene.victim.net.send_at_once(*frames)
    used = guest.receiveq.wait_used(len(parts), scene.max_wait)
    if used != [Used(head, len(part)) for head, part in zip(heads, parts, strict=True)]:
        raise Broken("C", f"{list(sizes)} bytes at once, in buffers {heads} of {buffer} bytes, were returned as {used}")
    if [guest.memory.read(piece.addr, len(part)) for piece, part in zip(room, parts, strict=True)] != parts:
        raise Broken("I7", f"frames of {list(sizes)} bytes at once arrived in another form")
    scene.victim.net.wait_sent(scene.max_wait)


@attack("burst-length", "receive-batch", rings=BURST_RINGS)
def frames_of_every_length_in_one_burst(scene: Scene) -> None:
    """Each buffer comes back with its own length; one that a batch skips would count as full (2.7.9, 2.8.8)."""
    for start in (None, 0, 1, 2, 3):
        guest = scene.boot(queue_size=64, start=start)
        for n in (1, 2, 3, 4, 5, 8, 13, 4, 4, 32, 7):
            burst(scene, guest, *(60 + 97 * (i * i + n) % 1455 for i in range(n)))


@attack("burst-length", "receive-batch", rings=BURST_RINGS)
def frames_over_several_chains_in_one_burst(scene: Scene) -> None:
    """Mergeable: every chain but the last one of a frame is full, and is returned with that length."""
    guest = scene.boot(features=FEATURES | NET_F_MRG_RXBUF, queue_size=64)
    for n in (1, 2, 3, 4, 4, 4, 7):
        burst(scene, guest, *(60 + 97 * (i * i + n) % 1455 for i in range(n)), buffer=300)


@attack("drop-keeps-chain", rings=(*IN_ORDER, "packed", "split"))
def runts_between_frames(scene: Scene) -> None:
    """A dropped chain is returned in its turn."""
    guest = scene.boot(queue_size=64)
    frames = [scene.frame(60 + i) for i in range(12)]
    pieces = [guest.piece(guest.packet(frame)[: 20 if i % 3 == 1 else None]) for i, frame in enumerate(frames)]
    heads = [guest.transmitq.chain([piece]) for piece in pieces]
    guest.fire(*heads)
    good = [frame for i, frame in enumerate(frames) if i % 3 != 1]
    if [scene.victim.net.receive(scene.max_wait) for _ in good] != good:
        raise Broken("I7", "the frames between runts arrived in another form")
    scene.returned(guest, heads)
    scene.counted({"runt": 4})


@attack("order-trusted", rings=("split_in_order",))
def heads_out_of_order(scene: Scene) -> None:
    """They are delivered as the available ring says, or the queue breaks."""
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
        got = len([scene.victim.net.receive(scene.max_wait) for _ in order])
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
        got = [scene.victim.net.receive(scene.max_wait) for _ in range(position)]
        if got != frames[:position]:
            raise Broken("I7", "the frames before the bad head arrived in another form")
        if position and guest.transmitq.wait_used(position, scene.max_wait) != [Used(h, 0) for h in heads[:position]]:
            raise Broken("C", "the chains before the bad head came back as others")
        scene.broken(guest)
