"""Packed rings of all sizes, with impossible bases, at impossible addresses, and with odd event areas.

Virtio 1.2, sections 2.8 and 2.8.10; the halves of a packed ring's base: vhost-user, "Ring states".
"""

from __future__ import annotations

from functools import partial

from tests.driver import Piece
from tests.frontend import FEATURES, NO_FD, RING_F_EVENT_IDX, U64, VRING_STATE, Request
from tests.hostile.attack import packed_attack
from tests.hostile.attacks_message import start_at, start_with, start_with_areas
from tests.hostile.rings import half_base
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region
from tests.packed_driver import EVENT, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE

END = GUEST_ADDR + (2 << 20)

# Sizes: any from 1 to 32768 will do.

for size in (1, 3, 5, 7, 100, 255, 32767, 32768):

    def ring_of_size(scene: Scene, size: int = size) -> None:
        """Several laps, in chains of one and of two; the same in the other direction."""
        guest = scene.boot(queue_size=size, regions=[region(4 << 20)], start=max(0, size - 20))
        for number in range(45):
            frame = scene.frame()
            sizes = [12] if number % 2 and size > 1 else []
            scene.delivered(guest, frame, guest.send(*guest.pieces(guest.packet(frame), sizes)))
            if number % 5 == 0:
                scene.works(guest, 0)

    bug = "small-queues-only" if size > 32000 else "power-of-two-only" if size > 1 else "used-wrap-forgotten"
    bugs = (bug, "mask-for-modulo") if size in (3, 7, 100) else (bug,)
    packed_attack(*bugs, name=f"a_packed_ring_of_{size}_descriptors")(ring_of_size)

for size in (0, 32769, 65536, 0x80000000, 0xFFFFFFFF):

    def impossible_size(scene: Scene, size: int = size) -> None:
        for guest in scene.each_way():
            guest.frontend.get_vring_base(0)
            scene.refused_by(guest.frontend, partial(start_with, guest.frontend, size))

    packed_attack("ring-values-unchecked", name=f"a_packed_ring_of_size_{size}")(impossible_size)


# Bases


@packed_attack("base-without-wrap")
def bases_at_every_corner(scene: Scene) -> None:
    guest = scene.boot(queue_size=100)
    for index in (0, 1, 50, 98, 99):
        for wrap in (False, True):
            restart(guest, half_base(index, wrap) * 0x10001)
            for _ in range(5):
                scene.works(guest)


def restart(guest: Attacker, base: int) -> None:
    guest.frontend.get_vring_base(1)
    guest.transmitq.reset(base)
    guest.frontend.set_up_queue(1, guest.transmitq, call=guest.calls[1], err=guest.errs[1])


@packed_attack("ring-values-unchecked")
def bases_that_name_a_descriptor_beyond_the_ring(scene: Scene) -> None:
    good, beyond, last = half_base(0), half_base(100), half_base(0x7FFF)
    for available, used in ((beyond, good), (good, beyond), (last, last), (good, last), (0x7FFF, 0x7FFF), (100, 100)):
        for guest in scene.each_way():
            guest.frontend.get_vring_base(1)
            guest.frontend.tell(Request.SET_VRING_NUM, VRING_STATE.pack(1, 100))
            scene.refused_by(guest.frontend, partial(start_at, guest.frontend, available | used << 16))


@packed_attack("base-halves-trusted")
def bases_whose_halves_do_not_belong_together(scene: Scene) -> None:
    """More in flight than the ring holds, or a negative number: it is refused, or starts; set up anew it works."""
    for available, used in (
        (half_base(5), half_base(9)),
        (half_base(5), half_base(5, wrap=False)),
        (half_base(9, wrap=False), half_base(5)),
        (half_base(9), half_base(5, wrap=False)),
        (half_base(0), half_base(255)),
        (half_base(3), half_base(0)),
    ):
        guest = scene.boot()
        guest.frontend.get_vring_base(1)
        guest.transmitq.reset(available)
        base = VRING_STATE.pack(1, available | used << 16)
        kick = U64.pack(1 | NO_FD)
        if scene.tolerated(guest.frontend, Request.SET_VRING_BASE, base) and scene.tolerated(
            guest.frontend, Request.SET_VRING_KICK, kick
        ):
            for _ in range(12):
                guest.send(guest.piece(guest.packet(scene.frame())))
            scene.frames_may_have_arrived()
            # It writes used descriptors where the base says.
            guest.transmitq.offered_at.update(range(256))
            guest.restart_queue(1, half_base(7) * 0x10001)
            scene.forget_drops()
            scene.works(guest)


@packed_attack("ring-values-unchecked")
def packed_rings_where_no_ring_can_be(scene: Scene) -> None:
    """Outside memory, half outside, odd, wrapping: refused at once or when the ring starts."""
    for area in range(3):
        for bad in (0, 2**64 - 1, 2**64 - 64, "odd", "end", "behind"):
            guest = scene.boot()
            queue, own = guest.transmitq, guest.memory.regions[0]
            guest.frontend.get_vring_base(1)
            user = guest.memory.user_addr
            areas = [user(queue.descriptor_area), user(queue.device_area), user(queue.driver_area)]
            end = own.user_addr + own.bytes
            places = {"odd": areas[area] + 2, "end": end - (2 if area else 16), "behind": end}
            areas[area] = places[bad] if isinstance(bad, str) else bad
            scene.refused_by(guest.frontend, partial(start_with_areas, guest.frontend, areas))


# Event suppression. Section 2.8.10: offsets and flags without a meaning.

EVENTS = [
    (off_wrap, flags)
    for flags in (EVENT_DESC, 3, 4, 0xFFFF, EVENT_DISABLE, EVENT_ENABLE)
    for off_wrap in (0, 255, 256, 0x7FFF, 0x8000, 0x80FF, 0x8100, 0xFFFF)
]


def events(scene: Scene, features: int) -> None:
    guest = scene.boot(features=features)
    for off_wrap, flags in EVENTS:
        for queue in guest.queues:
            guest.memory.pack(EVENT, queue.driver_area, off_wrap, flags)
        scene.works(guest)
        scene.works(guest, 0)


@packed_attack("event-offset-trusted", "event-flags-trusted")
def impossible_event_areas(scene: Scene) -> None:
    events(scene, FEATURES | RING_F_EVENT_IDX)


@packed_attack("event-flags-trusted")
def impossible_event_areas_without_the_feature(scene: Scene) -> None:
    events(scene, FEATURES)


@packed_attack("event-area-believed")
def a_device_event_area_that_the_driver_writes(scene: Scene) -> None:
    """Only the device writes it; values from the driver have no effect."""
    guest = scene.boot()
    for off_wrap, flags in EVENTS:
        for queue in guest.queues:
            guest.memory.pack(EVENT, queue.device_area, off_wrap, flags)
        scene.works(guest)


# Features


@packed_attack("sloppy-range")
def everything_at_once_in_a_packed_ring_of_seven(scene: Scene) -> None:
    """Broken in each of its places, on both laps."""
    guest = scene.boot(queue_size=7, start=0)
    for place in range(14):
        restart(guest, half_base(place % 7, place < 7) * 0x10001)
        scene.works(guest)
        guest.send(guest.piece(guest.packet(scene.frame())), Piece(END - 1, 2))
        scene.broken(guest)
